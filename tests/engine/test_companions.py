"""What travels beside the embeddings is cut with the tokens, and masks may be a family's own.

A stand-in for Qwen3-VL's deepstack: vectors of visual tokens that are added behind layers 0 to 2.
"""

import pytest
import torch
from helpers.support import (
    Fixed,
    _lay_out,
    _plain_layer,
    batch,
    kept_tokens,
    pixels,
    positions_of,
    prompt,
    random_llava,
    survives,
)

import nuwa
from nuwa.models.llava import Llava

PLANES = 3


class Deep(Llava):
    """LLaVA whose language model would get planes (B, L, PLANES, D), made of the embeddings here."""

    def companions(self, kwargs):
        return {"planes": planes_of(kwargs["inputs_embeds"])}

    def with_companions(self, kwargs, companions):
        return dict(kwargs)

    def enter_layer(self, layer, hidden, kwargs, companions):
        if 0 < layer <= PLANES:
            hidden = hidden + companions["planes"][:, :, layer - 1]
        return hidden, dict(kwargs)


def planes_of(embeddings):
    return torch.stack([embeddings.roll(plane + 1, -1) for plane in range(PLANES)], -2)


@torch.no_grad()
def deep_logits(model, ids, images, pruner, strategy):
    """The last logits of a prompt, layer by layer, without hooks."""
    lm, features = model.model.language_model, model.model.get_image_features(**images).pooler_output
    keep = [kept_tokens(64, pruner.stride, 1)] * len(features)
    alive, hidden = _lay_out(model, ids, features, keep)
    planes = planes_of(hidden)
    for number, layer in enumerate(lm.layers):
        if 0 < number <= PLANES:
            hidden = hidden + planes[:, number - 1]
        if number in pruner.layers:
            stage = pruner.layers.index(number) + 2
            stay = [i for i, e in enumerate(alive) if e[1] < 0 or survives(e[2], pruner.stride, stage)]
            hidden, planes, alive = hidden[stay], planes[stay], [alive[i] for i in stay]
        position = positions_of(strategy, alive, [64] * len(features))
        hidden = _plain_layer(lm, layer, hidden, torch.tensor(position))
    return model.lm_head(lm.norm(hidden[-1]))


@pytest.mark.parametrize("strategy", ["pesp", "perc"])
@pytest.mark.parametrize("layers", [(), (1,), (1, 2), (0, 2, 4)], ids=str)
def test_companions_follow_the_tokens(layers, strategy, monkeypatch):
    model, pruner = random_llava(), Fixed(3, layers)
    prompts = [prompt(3, "image", 4), prompt("image", 2, "image", 6)]
    alone = [
        deep_logits(model, ids, {"pixel_values": pixels(3)[images]}, pruner, strategy)
        for ids, images in zip(prompts, ([0], [1, 2]), strict=True)
    ]
    monkeypatch.setattr("nuwa.engine.session.adapter_for", lambda model: Deep(model.config, model))
    with torch.no_grad(), nuwa.prune(model, pruner, strategy, share=True):
        together = model(**batch(*prompts), pixel_values=pixels(3)).logits[:, -1]
    torch.testing.assert_close(together, torch.stack(alone), atol=2e-5, rtol=1e-4)


class Backwards(Llava):
    """LLaVA whose text sees itself alone: every mask is the family's own."""

    own_masks = True

    def layer_mask(self, kind, keys, queries, padded, dtype):
        image, place = keys.image, keys.place
        asks, causal = slice(-queries, None), place[:, None] <= place[:, -queries:, None]
        return (keys.valid[:, None] & causal & (image[:, None] == image[:, asks, None]))[:, None]


@torch.no_grad()
def test_a_family_makes_every_mask(monkeypatch):
    """Without a look at the picture, neither picture nor pruning matter."""
    model, answers = random_llava(), []
    monkeypatch.setattr("nuwa.engine.session.adapter_for", lambda model: Backwards(model.config, model))
    for seed, layers in ((0, ()), (1, ()), (0, (2,)), (0, (2, 4))):
        arguments = {"max_new_tokens": 4, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
        with nuwa.prune(model, Fixed(3, layers), "pesp"):
            ids = batch(prompt(3, "image", 4))
            answers.append(torch.cat(model.generate(**ids, pixel_values=pixels(1, seed), **arguments).logits))
    for other in answers[1:]:
        torch.testing.assert_close(other, answers[0], atol=1e-5, rtol=1e-5)
    plain = model.generate(**ids, pixel_values=pixels(1), **arguments).logits
    assert not torch.allclose(torch.cat(plain), answers[0], atol=1e-3)
