"""Scores read off hooks equal what eager attention outputs say."""

from __future__ import annotations

import pytest
import torch
from helpers.support import batch, pixels, plain_attention, prompt, random_llava, tapped, tapped_features

from nuwa.engine.about import content_ids
from nuwa.models import adapter_for
from nuwa.pruners.base import Tap
from nuwa.pruning.scores import llm_attention_rows, llm_keys, received_attention


@pytest.fixture(scope="module")
def towers():
    return random_llava("sdpa"), random_llava("eager")


def record(model, *taps):
    adapter = adapter_for(model)
    with torch.no_grad(), adapter.record(taps, {"pixel_values": pixels(2)}) as recording:
        model.model.get_image_features(pixel_values=pixels(2))
    return recording


def eager_outputs(model):
    with torch.no_grad():
        return model.model.vision_tower(pixels(2), output_attentions=True, output_hidden_states=True)


def test_cls_attention_is_the_eager_row_of_the_feature_layer(towers):
    sdpa, eager = towers
    expected = eager_outputs(eager).attentions[-2][:, :, 0, 1:]
    got = tapped(record(sdpa, Tap("cls_attention")), Tap("cls_attention"), 2)
    assert expected.std() > 1e-3  # not flat: the comparison can fail
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)


def test_keys_are_those_of_the_feature_layer(towers):
    _, eager = towers  # the same kernel on both sides: what is compared is which states are read
    layer = eager.model.vision_tower.encoder.layers[-2]
    hidden = eager_outputs(eager).hidden_states[-3]
    expected = layer.self_attn.k_proj(layer.layer_norm1(hidden))[:, 1:]
    torch.testing.assert_close(tapped(record(eager, Tap("keys")), Tap("keys"), 2), expected, atol=1e-6, rtol=0)


def test_features_and_cls_token_are_the_selected_hidden_state(towers):
    _, eager = towers  # the same kernel on both sides: what is compared is which states are read
    expected = eager_outputs(eager).hidden_states[-2]
    recording = record(eager, Tap("cls_feature"))
    torch.testing.assert_close(tapped_features(recording, 2), expected[:, 1:], atol=1e-6, rtol=0)
    torch.testing.assert_close(tapped(recording, Tap("cls_feature"), 2), expected[:, :1], atol=1e-6, rtol=0)


@pytest.mark.parametrize(("layer", "index"), [(None, 2), (0.375, 1), (0.25, 0)])
def test_received_attention_is_the_mean_over_heads_and_queries(towers, layer, index):
    sdpa, eager = towers
    expected = eager_outputs(eager).attentions[index].mean((1, 2))[:, 1:]
    tap = Tap("received_attention", layer=layer)
    assert expected.std() > 1e-4
    torch.testing.assert_close(tapped(record(sdpa, tap), tap, 2), expected, atol=1e-7, rtol=1e-5)


def test_received_attention_does_not_depend_on_the_portions():
    queries, keys = torch.randn(2, 2, 3, 50, 4, generator=torch.Generator().manual_seed(0)).unbind()
    one, other = (received_attention(queries, keys, 0.5, chunk) / 50 for chunk in (50, 7))
    torch.testing.assert_close(other, one, atol=1e-7, rtol=1e-6)


def test_reader_taps_are_of_the_layer_that_reads_the_features(towers):
    _, eager = towers
    layer = eager.model.vision_tower.encoder.layers[-1].self_attn
    hidden = eager.model.vision_tower.encoder.layers[-1].layer_norm1(eager_outputs(eager).hidden_states[-2])
    recording = record(eager, Tap("reader_query"), Tap("reader_keys"))
    for tap, expected in (("reader_query", layer.q_proj(hidden)[:, :1]), ("reader_keys", layer.k_proj(hidden))):
        torch.testing.assert_close(tapped(recording, Tap(tap), 2), expected, atol=1e-6, rtol=0)


def test_reader_taps_are_of_the_last_layer_where_none_reads_the_features(towers):
    _, eager = towers
    before = record(eager, Tap("reader_keys"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(eager.config, "vision_feature_layer", -1)
        last = record(eager, Tap("reader_keys"))
    assert not last.selected.equal(before.selected)
    assert tapped(last, Tap("reader_keys"), 2).equal(tapped(before, Tap("reader_keys"), 2))


@pytest.mark.parametrize(("start", "first"), [(0.5, 2), (2 / 3, 3), (0.75, 3)])
def test_hidden_mean_starts_at_a_fraction_of_the_depth(towers, start, first):
    _, eager = towers  # the same kernel on both sides: what is compared is which states are read
    states = eager_outputs(eager).hidden_states[first:]
    expected = torch.stack([state[:, 1:] for state in states]).mean(0)
    got = tapped(record(eager, Tap("hidden_mean", start)), Tap("hidden_mean", start), 2)
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)


def test_recording_leaves_no_hooks(towers):
    sdpa, _ = towers
    record(sdpa)  # transformers installs its own capture hooks on the first call
    before = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in sdpa.modules()]
    record(sdpa, Tap("cls_attention"), Tap("hidden_mean", 0.5), Tap("cls_feature"))
    assert before == [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in sdpa.modules()]


def test_unknown_tap_is_named(towers):
    with pytest.raises(ValueError, match="queries_of_mars"):
        record(towers[0]).view(Tap("queries_of_mars"), 0, torch.arange(64))


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
    of_layer = adapter_for(sdpa).queries_keys, layer, seen["hidden"], seen["rotary"]
    got = llm_attention_rows(*of_layer, inputs["attention_mask"].bool(), query)
    torch.testing.assert_close(got, attentions[:, :, query], atol=1e-6, rtol=0)


def test_llm_keys_rows_without_rotation_and_a_softmax_over_some_tokens(towers):
    _, eager = towers
    inputs = batch(prompt(4, "image", 5)) | {"pixel_values": pixels(1)}
    seen = {}

    def spy(module, args, kwargs):
        seen.update(hidden=args[0], rotary=kwargs["position_embeddings"])

    layer = eager.model.language_model.layers[2]
    handle = layer.register_forward_pre_hook(spy, with_kwargs=True)
    with torch.no_grad():
        out = eager(**inputs, use_cache=True)
        normed = layer.input_layernorm(seen["hidden"])[0]
    handle.remove()
    expected = out.past_key_values.layers[2].keys[0].transpose(0, 1).flatten(1)
    of_layer = adapter_for(eager).queries_keys, layer, seen["hidden"], seen["rotary"]
    torch.testing.assert_close(llm_keys(*of_layer)[0], expected, atol=1e-6, rtol=0)

    among = torch.arange(len(normed)) % 3 == 0
    q = layer.self_attn.q_proj(normed[-1]).view(4, 16)
    k = layer.self_attn.k_proj(normed).view(-1, 2, 16).repeat_interleave(2, 1)
    rows = [(k[among, head] @ q[head] / 4).softmax(0) for head in range(4)]
    last = torch.tensor([len(normed) - 1])
    got = llm_attention_rows(*of_layer, among[None] | True, last, rotary=False, among=among[None])
    torch.testing.assert_close(got[0, :, 0, among], torch.stack(rows), atol=1e-6, rtol=0)
    assert not got[0, :, 0, ~among].any()


def test_the_plain_reference_agrees_with_eager_too(towers):
    """Guards the decoder loop of tests/helpers/support.py against a shared misunderstanding."""
    _, eager = towers
    inputs = batch(prompt(4, "image", 5)) | {"pixel_values": pixels(1)}
    with torch.no_grad():
        out = eager(**inputs, output_attentions=True, output_hidden_states=True)
        lm = eager.model.language_model
        got = plain_attention(lm, lm.layers[2], out.hidden_states[2][0], torch.arange(inputs["input_ids"].shape[1]))
    torch.testing.assert_close(got, out.attentions[2][0], atol=1e-6, rtol=0)


def test_two_means_of_hidden_states_do_not_mix(towers):
    _, eager = towers
    hidden, taps = eager_outputs(eager).hidden_states, (Tap("hidden_mean", 0.5), Tap("hidden_mean", 0.25, stop=0.75))
    recording = record(eager, *taps)
    for tap, states in zip(taps, (hidden[2:], hidden[1:4]), strict=True):
        expected = torch.stack(states).mean(0)[:, 1:]
        torch.testing.assert_close(tapped(recording, tap, 2), expected, atol=1e-5, rtol=0)


def test_names_of_unnamed_images():
    """By content alone, and whatever the precision can tell."""
    first, second = pixels(2)
    one, same, other = content_ids([first, first.clone(), second])
    assert one == same != other and [one] == content_ids([first])
    assert len(set(content_ids([first, first.flip(0), first.flip(2), first + 1, first.half()]))) == 5
    touched = first.clone()
    touched[0, 0, 0] += 1e-6
    assert content_ids([touched]) != [one]
