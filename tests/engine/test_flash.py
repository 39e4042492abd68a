"""A backend that takes 2-D masks only, as FlashAttention does, gives what sdpa gives."""

from __future__ import annotations

import pytest
import torch
from helpers.support import Fixed, batch, pixels, prompt, random_llava
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import flash_attention_mask

import nuwa
from nuwa.pruning.masks import format_mask, left_pack

NAME = "flash_stand_in"


def stand_in(module, query, key, value, attention_mask, scaling=None, position_ids=None, **kwargs):
    """Causal attention by rows; refuses what real FlashAttention would read differently."""
    assert position_ids is None, "gapped position ids would be read as packed sequences"
    if attention_mask is not None:
        assert attention_mask.shape == (query.shape[0], key.shape[2]), attention_mask.shape
    key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
    keys, queries = key.shape[2], query.shape[2]
    allowed = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)[None, None]
    if attention_mask is not None:
        allowed = allowed & attention_mask.bool()[:, None, None]
    weights = (query @ key.transpose(2, 3) * scaling).masked_fill(~allowed, -1e30).softmax(-1)
    return (weights @ value).transpose(1, 2).contiguous(), None


@pytest.fixture
def flash_model():
    AttentionInterface.register(NAME, stand_in)
    AttentionMaskInterface.register(NAME, flash_attention_mask)
    model = random_llava()
    model.model.language_model.config._attn_implementation = NAME
    yield model
    AttentionInterface._global_mapping.pop(NAME)
    AttentionMaskInterface._global_mapping.pop(NAME)


@pytest.mark.parametrize("position", ["perc", "pesp", "rpme"])
@pytest.mark.parametrize("share", [False, True])
def test_equals_sdpa(flash_model, position, share):
    prompts = prompt(5, "image", 3), prompt(5, "image", 6), prompt("image", 1, "image", 6)
    inputs = batch(*prompts) | {"pixel_values": pixels(3)[[0, 0, 1, 2]]}
    options = {"max_new_tokens": 6, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    outs = []
    for model in (flash_model, random_llava()):
        with nuwa.prune(model, Fixed(3, (2, 4)), position, share=share and model is flash_model):
            outs.append(model.generate(**inputs, **options))
    torch.testing.assert_close(torch.stack(outs[0].logits), torch.stack(outs[1].logits), atol=2e-6, rtol=0)
    assert torch.equal(outs[0].sequences, outs[1].sequences)


def test_unknown_backends_are_named():
    with pytest.raises(NotImplementedError, match=r"model\.attention=flex_attention"):
        format_mask("flex_attention", torch.ones(1, 4, dtype=torch.bool), 4, False, torch.float32)


def test_left_pack_against_a_loop():
    generator = torch.Generator().manual_seed(1)
    keep = torch.rand(5, 12, generator=generator) > 0.4
    order = torch.stack([torch.randperm(12, generator=generator) for _ in range(5)])
    packed = left_pack(keep, order, int(keep.sum(1).max()))
    length = int(keep.sum(1).max())
    for row in range(5):
        kept = sorted((int(order[row, i]), i) for i in range(12) if keep[row, i])
        assert packed[row, length - len(kept) :].tolist() == [i for _, i in kept]
    assert packed.shape == (5, length)
