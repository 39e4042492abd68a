"""Scores read off hooks equal what eager attention outputs say."""

from __future__ import annotations

import pytest
import torch
from support import batch, pixels, plain_attention, prompt, random_llava

from nuwa.models import adapter_for
from nuwa.pruners.base import Tap
from nuwa.pruning.scores import llm_attention_rows


@pytest.fixture(scope="module")
def towers():
    return random_llava("sdpa"), random_llava("eager")


def record(model, *taps):
    adapter = adapter_for(model)
    with torch.no_grad(), adapter.record(taps) as recording:
        model.model.get_image_features(pixel_values=pixels(2))
    return recording


def eager_outputs(model):
    with torch.no_grad():
        return model.model.vision_tower(pixels(2), output_attentions=True, output_hidden_states=True)


def test_cls_attention_is_the_eager_row_of_the_feature_layer(towers):
    sdpa, eager = towers
    expected = eager_outputs(eager).attentions[-2][:, :, 0, 1:]
    got = record(sdpa, Tap("cls_attention")).view(Tap("cls_attention"))
    assert expected.std() > 1e-3  # not flat: the comparison can fail
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)


def test_keys_are_those_of_the_feature_layer(towers):
    _, eager = towers  # the same kernel on both sides: what is compared is which states are read
    layer = eager.model.vision_tower.encoder.layers[-2]
    hidden = eager_outputs(eager).hidden_states[-3]
    expected = layer.self_attn.k_proj(layer.layer_norm1(hidden))[:, 1:]
    torch.testing.assert_close(record(eager, Tap("keys")).view(Tap("keys")), expected, atol=1e-6, rtol=0)


def test_features_and_cls_token_are_the_selected_hidden_state(towers):
    _, eager = towers  # the same kernel on both sides: what is compared is which states are read
    expected = eager_outputs(eager).hidden_states[-2]
    recording = record(eager, Tap("cls_feature"))
    torch.testing.assert_close(recording.features, expected[:, 1:], atol=1e-6, rtol=0)
    torch.testing.assert_close(recording.view(Tap("cls_feature")), expected[:, :1], atol=1e-6, rtol=0)


@pytest.mark.parametrize(("start", "first"), [(0.5, 2), (2 / 3, 3), (0.75, 3)])
def test_hidden_mean_starts_at_a_fraction_of_the_depth(towers, start, first):
    _, eager = towers  # the same kernel on both sides: what is compared is which states are read
    states = eager_outputs(eager).hidden_states[first:]
    expected = torch.stack([state[:, 1:] for state in states]).mean(0)
    got = record(eager, Tap("hidden_mean", start)).view(Tap("hidden_mean", start))
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)


def test_recording_leaves_no_hooks(towers):
    sdpa, _ = towers
    record(sdpa)  # transformers installs its own capture hooks on the first call
    before = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in sdpa.modules()]
    record(sdpa, Tap("cls_attention"), Tap("hidden_mean", 0.5), Tap("cls_feature"))
    assert before == [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in sdpa.modules()]


def test_unknown_tap_is_named(towers):
    with pytest.raises(ValueError, match="queries_of_mars"):
        record(towers[0]).view(Tap("queries_of_mars"))


@pytest.mark.parametrize("number", [0, 3])
def test_llm_rows_equal_eager_attention(towers, number):
    """Padded rows of different lengths, grouped heads, two queries."""
    sdpa, eager = towers
    inputs = batch(prompt(4, "image", 5), prompt("image", 2)) | {"pixel_values": pixels(2)}
    seen = {}

    def spy(module, args, kwargs):
        seen.update(hidden=args[0], rotary=kwargs["position_embeddings"])

    layer = sdpa.model.language_model.layers[number]
    handle = layer.register_forward_pre_hook(spy, with_kwargs=True)
    with torch.no_grad():
        sdpa(**inputs)
        attentions = eager(**inputs, output_attentions=True).attentions[number]
    handle.remove()
    length = inputs["input_ids"].shape[1]
    query = torch.tensor([length - 1, length - 4])
    got = llm_attention_rows(layer, seen["hidden"], seen["rotary"], inputs["attention_mask"].bool(), query)
    torch.testing.assert_close(got, attentions[:, :, query], atol=1e-6, rtol=0)


def test_the_plain_reference_agrees_with_eager_too(towers):
    """Guards the decoder loop of tests/support.py against a shared misunderstanding."""
    _, eager = towers
    inputs = batch(prompt(4, "image", 5)) | {"pixel_values": pixels(1)}
    with torch.no_grad():
        out = eager(**inputs, output_attentions=True, output_hidden_states=True)
        lm = eager.model.language_model
        got = plain_attention(lm, lm.layers[2], out.hidden_states[2][0], torch.arange(inputs["input_ids"].shape[1]))
    torch.testing.assert_close(got, out.attentions[2][0], atol=1e-6, rtol=0)
