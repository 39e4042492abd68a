"""Qwen3.5: what linear layers read is what is left; stages that read attention act where there is some."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from helpers.families import FAMILIES
from helpers.family import generate, run
from helpers.methods import LINEAR
from helpers.support import Fixed, kept_tokens

import nuwa
from nuwa.engine.guards import SessionError
from nuwa.models import adapter_for, family_of
from nuwa.pruners.base import MisfitError
from nuwa.pruning.budget import Budget
from nuwa.pruning.flops import ModelShape, gated_delta_flops, kv_cache_bytes, llm_flops
from nuwa.pruning.schedules import Schedule, act_at

FAMILY = FAMILIES["qwen3_5"]
COUNT = FAMILY.sizes[0][0] * FAMILY.sizes[0][1]
SHAPE = ModelShape(32, 4096, 12288, 4, 256, 4096, attention=tuple(range(3, 32, 4)))
"""Qwen3.5-9B's."""


@torch.no_grad()
def shortened(kept):
    """The language model, called without a session, on the sequence that is left of "middle": its output and logits."""
    model, inputs = FAMILY.model(), FAMILY.inputs("middle")
    known = {k: inputs[k] for k in ("input_ids", "mm_token_type_ids", "image_grid_thw", "attention_mask")}
    ids, _ = model.model.get_rope_index(**known)
    vectors = model.model.language_model.embed_tokens(inputs["input_ids"])
    at = (inputs["input_ids"][0] == 4).nonzero()[:, 0]
    vectors[0, at] = model.model.get_image_features(**FAMILY.pictures(0)).pooler_output[0]
    stay = [place for place in range(vectors.shape[1]) if place not in at.tolist() or place - int(at[0]) in kept]
    out = model.model.language_model(inputs_embeds=vectors[:, stay], position_ids=ids[:, :, stay], use_cache=True)
    return out.past_key_values, model.lm_head(out.last_hidden_state[0, -1])


def test_pruning_before_the_llm_is_a_run_on_the_shortened_sequence():
    """Logits, keys, and the states of linear layers."""
    with torch.no_grad(), nuwa.prune(FAMILY.model(), Fixed(3), "pesp"):
        out = FAMILY.model()(**FAMILY.inputs("middle"), use_cache=True)
    cache, logits = shortened(kept_tokens(COUNT, 3, 1))
    torch.testing.assert_close(out.logits[0, -1], logits, atol=2e-6, rtol=0)
    for mine, theirs in zip(out.past_key_values.layers, cache.layers, strict=True):
        if hasattr(mine, "keys"):
            torch.testing.assert_close(mine.keys, theirs.keys, atol=2e-6, rtol=1e-5)
        else:
            torch.testing.assert_close(mine.recurrent_states[0], theirs.recurrent_states[0], atol=2e-6, rtol=1e-5)
            torch.testing.assert_close(mine.conv_states[0], theirs.conv_states[0], atol=2e-6, rtol=1e-5)
    assert not torch.allclose(logits, run(FAMILY.model(), FAMILY.inputs("middle"))[0, -1], atol=1e-3)


@pytest.mark.parametrize("layers", [(1,), (2,), (3, 4)])
def test_a_stage_at_any_kind_of_layer_decodes_as_without_a_cache(layers):
    """tests/engine/test_qwen.py has the loop by hand."""
    inputs, options = FAMILY.inputs("middle", "two", "last"), {"output_logits": True, "return_dict_in_generate": True}
    cached, again = (
        generate(FAMILY.model(), inputs, Fixed(3, layers), use_cache=use, **options) for use in (True, False)
    )
    assert torch.equal(cached.sequences, again.sequences)
    torch.testing.assert_close(torch.stack(cached.logits), torch.stack(again.logits), atol=3e-6, rtol=0)


def test_padding_that_a_state_would_read_is_refused():
    model, inputs = FAMILY.model(), FAMILY.inputs("first", "middle")
    with torch.no_grad(), nuwa.prune(model, Fixed(3)):
        out = model(**inputs, use_cache=True)
        turn = {"input_ids": torch.tensor([[0, 9], [11, 12]]), "past_key_values": out.past_key_values}
        mask = torch.cat([inputs["attention_mask"], torch.tensor([[0, 1], [1, 1]])], 1)
        with pytest.raises(SessionError, match="linear attention layers forget while they read padding"):
            model(**turn, attention_mask=mask)


@pytest.mark.parametrize(
    ("name", "asked", "acts"),
    [("fastv", (2,), (4,)), ("pyramiddrop", (8, 16, 24), (11, 19, 27)), ("nuwa", (), (16,)), ("visionzip", (), ())],
)
def test_stages_that_read_attention_act_at_the_next_layer_that_has_it(name, asked, acts):
    """Behind it, where the row is that of the layer before; a cosine needs none."""
    pruner = nuwa.load_pruner(name, budget=Budget(ratio=0.5))
    moved = pruner.schedule_on(1000, SHAPE)
    assert tuple(layer for layer, _ in moved.llm) == acts and moved.asked == asked
    assert moved.average(32) == pytest.approx(500, abs=5)


def test_a_stage_behind_the_last_attention_acts_there():
    assert act_at(Schedule(10, ((6, 2),)), allowed=(1, 5), layers=8).llm == ((5, 5),)
    assert act_at(Schedule(10, ((5, 2),)), allowed=(1, 5), layers=8) == Schedule(10, ((5, 2),))
    only = ModelShape(4, 8, 8, 1, 8, 8, attention=(3,))
    with pytest.raises(MisfitError, match="pruner fastv reads attention inside the LLM"):
        nuwa.load_pruner("fastv", budget=Budget(ratio=0.7)).schedule_on(100, only)


def test_the_report_says_where_a_stage_would_have_acted():
    with torch.no_grad(), nuwa.prune(FAMILY.model(), nuwa.load_pruner("fastv", Budget(ratio=0.5))) as session:
        FAMILY.model()(**FAMILY.inputs("middle"))
    (image,) = session.report().images
    assert image.asked == (1,) and [layer for layer, _, _ in image.stages] == [0, 2]
    assert str(session.report()).endswith("\nits stages act at 2 instead of 1, where there is attention to read")
    with torch.no_grad(), nuwa.prune(FAMILY.model(), nuwa.load_pruner("nuwa", Budget(ratio=0.5))) as session:
        FAMILY.model()(**FAMILY.inputs("middle"))
    assert session.report().images[0].asked == ()


def test_flops_and_bytes_of_linear_layers():
    """A layer of two heads with states of 3 x 5, one key head, hidden 7, kernel 4: every product counted by hand."""
    projections = 2 * 7 * (3 + 3 + 10 + 10 + 2 + 2) + 2 * 10 * 7
    convolution, states = 2 * 4 * (3 + 3 + 10), 2 * 3 * 5 * 7
    assert gated_delta_flops(7, 1, 3, 2, 5, 4) == projections + convolution + states
    shape = ModelShape(2, 7, 11, 1, 4, 7, attention=(1,), linear_flops=100.0)
    mlp, attention = 4 * 7 * 11, lambda s: 8 * s * 49 + 4 * s * s * 7
    assert llm_flops([6, 3], shape) == 6 * 100 + 6 * mlp + attention(3) + 3 * mlp
    assert kv_cache_bytes([6, 3], shape, 2) == 2 * 3 * 4 * 2
    config = FAMILY.model().config
    text = config.text_config
    keys, values = text.linear_num_key_heads, text.linear_num_value_heads
    assert family_of(config).shape.linear_flops == gated_delta_flops(
        48, keys, 8, values, 8, text.linear_conv_kernel_dim
    )
    assert family_of(config).shape.attention == (1, 3, 5)


def test_weights_that_linear_layers_do_not_have_are_not_calibrated():
    with pytest.raises(ValueError, match=r"calibration\.kind=size .*: layers of this model have linear attention"):
        nuwa.prune(FAMILY.model(), nuwa.load_pruner("visionzip", Budget(ratio=0.5)), calibration="size")


@pytest.mark.parametrize("name", LINEAR)
def test_methods_that_need_attention_everywhere_are_refused(name):
    with pytest.raises(MisfitError, match=f"pruner {name}.*have"):
        nuwa.prune(FAMILY.model(), nuwa.load_pruner(name, Budget(ratio=0.5)))


def test_layers_without_attention_have_none_to_read():
    family, hidden = adapter_for(FAMILY.model()), torch.zeros(1, 2, 48)
    with pytest.raises(ValueError, match="this layer of a qwen3_5 has linear attention"):
        family.queries_keys(family.layers[0], hidden, None, torch.tensor([1]))
    linear = SimpleNamespace(text_config=SimpleNamespace(layer_types=["linear_attention"] * 4))
    with pytest.raises(ValueError, match="qwen3_5 models need a layer with full attention"):
        type(family)(linear)
