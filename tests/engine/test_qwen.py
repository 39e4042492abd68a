"""Qwen's families: scores of packed towers, three position axes, dynamic resolution; test_session.py has the rest."""

from __future__ import annotations

import functools
import sys
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from engine.test_flash import NAME, stand_in
from helpers.families import FAMILIES, PROMPTS
from helpers.families_qwen import MERGE, PATCH, patches, places_of, plain_mrope_decode, random_qwen
from helpers.family import generate as generate_tokens
from helpers.family import run
from helpers.support import Fixed, kept_tokens
from transformers import AttentionInterface, AttentionMaskInterface, Qwen2VLImageProcessorPil
from transformers.masking_utils import flash_attention_mask

import nuwa
from nuwa.models import adapter_for
from nuwa.pruners import KeepAll
from nuwa.pruners.base import Tap
from nuwa.pruning.layout import window_order

FAMILY = FAMILIES["qwen2_5_vl"]
QWENS = [name for name in FAMILIES if name.startswith("qwen")]
STRATEGIES = ("perc", "pesp", "rpme", "rpme_1d")
generate = functools.partial(generate_tokens, max_new_tokens=6)


@pytest.fixture(params=QWENS)
def family(request):
    return FAMILIES[request.param]


def test_without_token_types_positions_are_one_dimensional_with_and_without_a_session():
    inputs = FAMILY.inputs("middle")
    flat = {key: value for key, value in inputs.items() if key != "mm_token_type_ids"}
    assert torch.equal(run(FAMILY.model(), flat), run(FAMILY.model(), flat, KeepAll()))
    assert not torch.equal(run(FAMILY.model(), flat), run(FAMILY.model(), inputs))


class TestPositions:
    @pytest.mark.parametrize("prompt", ["middle", "two"])
    def test_the_reference_has_the_models_ids(self, family, prompt):
        inputs = family.inputs(prompt)
        known = {k: inputs[k] for k in ("input_ids", "mm_token_type_ids", "image_grid_thw", "attention_mask")}
        expected, _ = family.model().model.get_rope_index(**known)
        sizes = [family.sizes[number] for number in PROMPTS[prompt][1]]
        places = places_of(family.ids(prompt), sizes)
        assert expected[:, 0].T.tolist() == [list(place) for place, _, _ in places]

    @pytest.mark.parametrize("position", STRATEGIES)
    @pytest.mark.parametrize("prompt", ["middle", "two"])
    def test_cached_generation_against_plain_decoding(self, family, position, prompt):
        model, inputs = family.model(), family.inputs(prompt)
        sizes = [family.sizes[number] for number in PROMPTS[prompt][1]]
        keep = [kept_tokens(rows * columns, 3, 1) for rows, columns in sizes]
        stages = {layer: _fixed_stage(3, stage) for layer, stage in ((2, 2), (4, 3))}
        images = {key: inputs[key] for key in ("pixel_values", "image_grid_thw")}
        tokens, logits = plain_mrope_decode(model, family.ids(prompt), images, sizes, keep, stages, position, 6)
        pruner = Fixed(3, (2, 4))
        out = generate(model, inputs, pruner, position, output_logits=True, return_dict_in_generate=True)
        torch.testing.assert_close(torch.cat(out.logits), logits, atol=3e-6, rtol=0)
        assert out.sequences[0, inputs["input_ids"].shape[1] :].tolist() == tokens

    def test_strategies_differ(self, family):
        inputs = family.inputs("middle")
        last = [run(family.model(), inputs, Fixed(3, (2, 4)), position)[0, -1] for position in STRATEGIES]
        for i in range(len(last)):
            assert (last[i] - last[i - 1]).abs().max() > 1e-4

    def test_a_manual_loop_without_position_ids(self, family):
        inputs, pruner = family.inputs("two"), Fixed(3, (2, 4))
        expected = generate(family.model(), inputs, pruner, "rpme")[0, -6:].tolist()
        with torch.no_grad(), nuwa.prune(family.model(), pruner, "rpme"):
            out, got = family.model()(**inputs), []
            for _ in range(6):
                got.append(int(out.logits[0, -1].argmax()))
                out = family.model()(input_ids=torch.tensor([got[-1:]]), past_key_values=out.past_key_values)
        assert got == expected


def test_a_backend_of_two_dimensional_masks_equals_sdpa(monkeypatch):
    """FlashAttention's way with masks, on three axes of ids."""
    model = random_qwen()
    for registry, entry in ((AttentionInterface, stand_in), (AttentionMaskInterface, flash_attention_mask)):
        monkeypatch.setitem(registry._global_mapping, NAME, entry)
    model.model.language_model.config._attn_implementation = NAME
    for position in ("perc", "rpme_1d"):
        inputs, pruner = FAMILY.inputs("middle", "two", "last"), Fixed(3, (2, 4))
        options = {"output_logits": True, "return_dict_in_generate": True}
        found, expected = (generate(one, inputs, pruner, position, **options) for one in (model, FAMILY.model()))
        torch.testing.assert_close(torch.stack(found.logits), torch.stack(expected.logits), atol=3e-6, rtol=0)


def _fixed_stage(stride: int, stage: int):
    def choose(hidden, entries):
        allowed = kept_tokens(64, stride, stage)
        return [i for i, (_, image, number) in enumerate(entries) if image < 0 or number in allowed]

    return choose


# scores


def spied(family, numbers):
    """What the eager tower really computed: attention weights of every block's segments, keys, states, features."""
    model = family.model("eager")
    tower = sys.modules[type(model).__module__]
    blocks, original = model.model.visual.blocks, tower.eager_attention_forward
    weights, keys, hidden = ({index: [] for index in range(len(blocks))} for _ in range(3))
    number = {block.attn: index for index, block in enumerate(blocks)}

    def eager(module, *args, **kwargs):
        out = original(module, *args, **kwargs)
        weights[number[module]].append(out[1][0])
        return out

    handles = []
    for index, block in enumerate(blocks):
        handles.append(block.register_forward_hook(lambda m, i, out, index=index: hidden[index].append(out)))
        handles.append(block.attn.qkv.register_forward_hook(lambda m, i, out, index=index: keys[index].append(out)))
    with torch.no_grad(), mock.patch.object(tower, "eager_attention_forward", eager):
        features = model.model.get_image_features(**family.pictures(*numbers)).pooler_output
    for handle in handles:
        handle.remove()
    keys = {index: projected.chunk(3, -1)[1] for index, (projected,) in keys.items()}
    return SimpleNamespace(weights=weights, keys=keys, hidden=[out for (out,) in hidden.values()], features=features)


def recorded(family, numbers, *taps):
    model = family.model("eager")
    adapter, images = adapter_for(model), family.pictures(*numbers)
    with torch.no_grad(), adapter.record(taps, images) as recording:
        model.model.get_image_features(**images)
    return recording


def everything(family, recording, tap, numbers):
    """A tap of whole pictures, one after the other."""
    counts = [len(family.cells(number)) for number in numbers]
    return [recording.view(tap, image, torch.arange(count)) for image, count in enumerate(counts)]


def raster(family, numbers):
    """Places in window order of every token, by the tower's own inverse: where its merger's rows end up."""
    model = family.model()
    with torch.no_grad():
        seen = {}
        handle = model.model.visual.merger.register_forward_hook(lambda m, i, out: seen.update(rows=out))
        whole = torch.cat(model.model.get_image_features(**family.pictures(*numbers)).pooler_output)
        handle.remove()
    return [int((seen["rows"] == row).all(1).nonzero()[0]) for row in whole]


NUMBERS, WINDOWS = (0, 1, 3), 12 + 8 + 12


def test_window_order_is_the_towers():
    grids = [(1, *FAMILY.sizes[number]) for number in NUMBERS]
    order = raster(FAMILY, NUMBERS)
    assert window_order(grids, 2).tolist() == order
    assert order != sorted(order)


def test_window_order_of_many_shapes_is_transformers():
    from transformers.vision_utils import get_vision_window_index

    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        grids = torch.randint(1, 13, (3, 3), generator=generator)
        grids[:, 0] = (grids[:, 0] % 3).clamp(min=1)
        patched = grids * torch.tensor([1, 2, 2])
        index, _ = get_vision_window_index(patched, spatial_merge_size=2, window_size=112, patch_size=14)
        assert torch.equal(window_order(grids.tolist(), 4), index.argsort())


@pytest.mark.parametrize(("layer", "block"), [(None, 3), (0.25, 0), (0.5, 1), (0.75, 2)])
def test_received_attention_is_the_mean_over_heads_and_queries_of_the_image(family, layer, block):
    """A full block by default, windows at other depths; patches of a token are averaged."""
    seen, order = spied(family, NUMBERS), raster(family, NUMBERS)
    assert len(seen.weights[block]) == (WINDOWS if block % 2 == 0 and family is FAMILY else len(NUMBERS))
    counts = [4 * len(family.cells(number)) for number in NUMBERS]
    sizes = torch.tensor([count for count in counts for _ in range(count // 4)])
    by_head = torch.cat([weights.sum(1) for weights in seen.weights[block]], 1).view(2, -1, 4).mean(-1)[:, order]
    expected = (by_head / sizes).split([count // 4 for count in counts], 1)
    taps = Tap("received_attention", layer=layer), Tap("cls_attention", layer=layer)
    recording = recorded(family, NUMBERS, *taps)
    mean, heads = (everything(family, recording, tap, NUMBERS) for tap in taps)
    for image in range(len(NUMBERS)):
        assert expected[image].std() > 5e-4  # not flat: the comparison can fail
        torch.testing.assert_close(heads[image], expected[image], atol=1e-6, rtol=0)
        torch.testing.assert_close(mean[image], expected[image].mean(0), atol=1e-6, rtol=0)
        torch.testing.assert_close(4 * mean[image].sum(), torch.tensor(1.0), atol=1e-5, rtol=0)


def test_keys_features_and_hidden_means_are_in_raster_order(family):
    seen, order = spied(family, NUMBERS), raster(family, NUMBERS)
    visual, counts = family.model("eager").model.visual, [len(family.cells(number)) for number in NUMBERS]
    mean, part = Tap("hidden_mean", start=0.5), Tap("hidden_mean", start=0.25, stop=0.75)
    recording = recorded(family, NUMBERS, Tap("keys"), mean, part)
    keys = seen.keys[3].view(-1, 4, 32).mean(1)[order].split(counts)
    with torch.no_grad():
        whole = visual.merger(torch.stack([seen.hidden[i] for i in (1, 2, 3)]).mean(0))[order].split(counts)
        middle = visual.merger(torch.stack([seen.hidden[i] for i in (0, 1, 2)]).mean(0))[order].split(counts)
    for image, count in enumerate(counts):
        rows = torch.arange(count)
        for got, expected in (
            (recording.features(image, rows), seen.features[image]),
            (recording.view(Tap("keys"), image, rows), keys[image]),
            (recording.view(mean, image, rows), whole[image]),
            (recording.view(part, image, rows), middle[image]),
        ):
            torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-5)
        assert recording.view(Tap("cls_feature"), image, rows) is None
        some = torch.tensor([count - 1, 0])
        assert torch.equal(recording.features(image, some), seen.features[image][some])


def test_recording_leaves_no_hooks(family):
    recorded(family, NUMBERS)
    modules = list(family.model("eager").modules())
    before = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules]
    recorded(family, NUMBERS, Tap("cls_attention"), Tap("hidden_mean", 0.5), Tap("keys"))
    assert before == [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules]


# geometry


def test_layouts_of_twenty_sizes_are_where_the_pixels_are():
    """A bright cell in a dark picture: the token at its row and column is the only one that differs from a dark one."""
    model, generator = FAMILY.model(), torch.Generator().manual_seed(1)
    side = PATCH * MERGE
    processor = Qwen2VLImageProcessorPil(patch_size=PATCH, merge_size=MERGE, do_resize=False, do_rescale=False)
    processor.do_normalize = False
    for _ in range(20):
        rows, columns = torch.randint(1, 9, (2,), generator=generator).tolist()
        row, column = (int(torch.randint(count, (1,), generator=generator)) for count in (rows, columns))
        image = torch.zeros(3, rows * side, columns * side)
        image[:, row * side : (row + 1) * side, column * side : (column + 1) * side] = 1.0
        inputs = processor(image.numpy(), return_tensors="pt", input_data_format="channels_first")
        assert torch.equal(inputs["pixel_values"], patches(image))
        with torch.no_grad():
            embedded = model.model.visual.patch_embed(inputs["pixel_values"]).view(rows * columns, -1)
            features = model.model.get_image_features(**inputs).pooler_output
        (layout,) = adapter_for(model).layouts(features, inputs)
        bright = (embedded != embedded[(row * columns + column + 1) % (rows * columns)]).any(1).nonzero()[:, 0].tolist()
        (view,) = layout.views
        assert (layout.n_tokens, view.grid) == (len(features[0]), (rows, columns))
        assert layout.source.tolist() == list(range(rows * columns))
        if rows * columns > 1:
            assert bright == [int(view.tokens.view(rows, columns)[row, column])]
