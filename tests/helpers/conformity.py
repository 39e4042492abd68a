"""What every family must do, checked on a model with random weights: ``conformity(loaded)``, or one check of `CHECKS`.

Attention is compared with what transformers' own modules hand to their kernel, after every norm and rotation.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from helpers.support import Fixed
from PIL import Image
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask

import nuwa
from nuwa.models import adapter_for, family_of
from nuwa.models.loaded import LoadedModel
from nuwa.pruners.none import KeepAll
from nuwa.pruning.scores import llm_attention_rows, llm_keys
from nuwa.samples import Sample

PICTURES = ((200, 150), (31, 57), (120, 30))
close = functools.partial(torch.testing.assert_close, atol=1e-5, rtol=1e-4)


def picture(number: int) -> Image.Image:
    coarse = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(PICTURES[number], Image.Resampling.BICUBIC)


def samples() -> list[Sample]:
    """A prompt of one picture and a longer one of two."""
    asked = (("what is it?", (0,)), ("which of the two is on the left?", (1, 2)))
    return [Sample(text, "vqa", tuple(map(picture, numbers)), text, None) for text, numbers in asked]


def images_of(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The arguments of ``get_image_features``."""
    text = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids")
    return {k: v for k, v in inputs.items() if k not in text}


@contextmanager
def spied(model) -> Iterator[dict[nn.Module, list[tuple[Tensor, Tensor, Tensor]]]]:
    """The queries, keys and weights of every call of an attention module's kernel, which is written out here."""
    seen: dict[nn.Module, list[tuple[Tensor, Tensor, Tensor]]] = {}

    def attend(module, query, key, value, attention_mask, scaling, **options):
        groups = query.shape[1] // key.shape[1]
        products = query @ key.repeat_interleave(groups, 1).mT * scaling
        weights = (products if attention_mask is None else products + attention_mask).softmax(-1)
        seen.setdefault(module, []).append((query, key, weights))
        return (weights @ value.repeat_interleave(groups, 1)).transpose(1, 2).contiguous(), weights

    AttentionInterface.register("spy", attend)
    AttentionMaskInterface.register("spy", eager_mask)
    before = model.config._attn_implementation
    model.set_attn_implementation("spy")
    try:
        yield seen
    finally:
        model.set_attn_implementation(before)


def calls_in(layer: nn.Module, seen) -> list[tuple[Tensor, ...]]:
    """The calls of a layer's attention."""
    (calls,) = (seen[module] for module in layer.modules() if module in seen)
    return calls


def every_layer_is_read(loaded: LoadedModel) -> None:
    """Layers of the LLM that have attention: queries, keys, attention rows and rotated keys."""
    family, inputs, entered = adapter_for(loaded.model), loaded.encode(samples()), []
    layers = [family.layers[number] for number in family.shape.attention_layers]
    hooks = [
        layer.register_forward_pre_hook(lambda m, args, kw: entered.append((args[0], kw)), with_kwargs=True)
        for layer in layers
    ]
    with spied(loaded.model) as seen:
        loaded.model(**inputs)
    for hook in hooks:
        hook.remove()
    valid, length = inputs["attention_mask"].bool(), inputs["input_ids"].shape[1]
    query = torch.tensor([length - 1, length - 3])
    for layer, (hidden, kwargs) in zip(layers, entered, strict=True):
        ((queries, keys, weights),) = calls_in(layer, seen)
        rotary = kwargs["position_embeddings"]
        heads = family.queries_keys(layer, hidden, rotary, torch.arange(length))
        close(heads.queries, queries)
        close(heads.keys, keys)
        assert weights.std() > 1e-3  # not flat: the comparison can fail
        of_layer = family.queries_keys, layer, hidden, rotary
        close(llm_attention_rows(*of_layer, valid, query), weights[:, :, query])
        close(llm_keys(*of_layer), keys.transpose(1, 2).flatten(2))


def every_tower_layer_is_read(loaded: LoadedModel) -> None:
    """Layers of the vision tower: queries and keys, whether it calls its kernel once or for every window."""
    family, arguments, runs = adapter_for(loaded.model), images_of(loaded.encode(samples())), []
    recording = family.new_recording(arguments)
    with spied(loaded.model) as seen, recording.reading((), runs.append):
        family.encode_images(**arguments)
    assert [run.index for run in runs] == list(range(len(family.tower_layers)))
    for run in runs:
        heads = recording.heads(run)
        for mine, found in zip(heads[:2], zip(*calls_in(run.layer, seen), strict=True), strict=False):
            close(mine, torch.cat(found, 2))


def features_are_where_the_layout_says(loaded: LoadedModel) -> None:
    """Placeholders, layouts and recorded features of each image against what enters the LLM."""
    family, inputs = adapter_for(loaded.model), loaded.encode(samples())
    arguments = images_of(inputs)
    with family.record((), arguments) as recording:
        images = family.split(family.encode_images(**arguments).pooler_output, arguments)
    assert (inputs["input_ids"] == family.placeholder_id).sum() == sum(map(len, images))
    for number, (image, layout) in enumerate(zip(images, family.layouts(images, arguments), strict=True)):
        assert layout.n_tokens == len(image)
        for view in layout.views:
            features = recording.features(number, layout.source[view.tokens])
            close(family.project(features), image[view.tokens])


def config_says_what_the_model_is(loaded: LoadedModel) -> None:
    """Shape, tower and layouts without a model; shape against the modules and the cache."""
    family, inputs = adapter_for(loaded.model), loaded.encode(samples())
    alone, shape = family_of(loaded.model.config), family.shape
    assert (alone.shape, alone.tower, alone.axes) == (shape, family.tower, family.axes)
    arguments = images_of(inputs)
    images = family.split(family.encode_images(**arguments).pooler_output, arguments)
    for one, other in zip(alone.layouts(images, arguments), family.layouts(images, arguments), strict=True):
        assert torch.equal(one.source, other.source)
    cache = loaded.model(**inputs, use_cache=True).past_key_values
    assert len(cache.layers) == len(family.layers) == shape.layers
    keeps = [number for number, layer in enumerate(cache.layers) if hasattr(layer, "keys")]
    first = shape.attention_layers[0]
    assert keeps == list(shape.attention_layers)
    assert cache.layers[first].keys.shape == (2, shape.kv_heads, inputs["input_ids"].shape[1], shape.head_dim)
    widths = {weight.shape for weight in family.layers[first].parameters()}
    assert {(shape.intermediate, shape.hidden), (shape.kv_heads * shape.head_dim, shape.hidden)} <= widths
    if shape.image_tokens is not None:
        assert {len(image) for image in images} == {shape.image_tokens}


def keeping_all_changes_nothing(loaded: LoadedModel) -> None:
    """Bit by bit, whether nothing is asked or every token is chosen before and in the LLM."""
    inputs = loaded.encode(samples())
    expected = loaded.model(**inputs).logits
    for pruner in (KeepAll(), Fixed()):
        with nuwa.prune(loaded.model, pruner, "pesp"):
            assert torch.equal(loaded.model(**inputs).logits, expected)


def rows_do_not_depend_on_their_batch(loaded: LoadedModel) -> None:
    """Pruned before and in the LLM, cached and not, greedy and with beams."""
    rows, fixed = samples(), {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    fixed["suppress_tokens"] = [loaded.model.config.image_token_id]  # which a random model may well generate

    def answers(batch: list[Sample], **options) -> Tensor:
        inputs = loaded.encode(batch)
        with nuwa.prune(loaded.model, Fixed(stride=2, layers=(1,))):
            ids = loaded.model.generate(**inputs, **fixed, **options)
        return ids[:, inputs["input_ids"].shape[1] :]

    for beams in (1, 3):
        together = answers(rows, num_beams=beams)
        assert torch.equal(together, torch.cat([answers([row], num_beams=beams) for row in rows]))
        assert torch.equal(together, answers(rows, num_beams=beams, use_cache=False))


CHECKS = (
    every_layer_is_read,
    every_tower_layer_is_read,
    features_are_where_the_layout_says,
    config_says_what_the_model_is,
    keeping_all_changes_nothing,
    rows_do_not_depend_on_their_batch,
)


@torch.no_grad()
def conformity(loaded: LoadedModel) -> None:
    """Every check, on a loaded model of the family.

    Raises:
        AssertionError: one fails; the traceback names it.
    """
    for check in CHECKS:
        check(loaded)
