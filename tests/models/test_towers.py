"""States and attention rows of vision towers against eager weights, sequence by sequence, window by window."""

import functools
import sys

import pytest
import torch
from helpers.analysis_cases import session_of
from helpers.families import FAMILIES

from nuwa.engine.calls import read_prompt_once
from nuwa.models import adapter_for
from nuwa.pruners.base import Tap

QWENS = [name for name in FAMILIES if name.startswith("qwen")]


def seen_tower(family, inputs):
    """Per layer and image: the attention rows (S, N, N) and the states of every feature row."""
    adapter, seen = adapter_for(family.model()), []

    recording = adapter.new_recording(inputs)

    def watch(run):
        images = len(next(inputs[key] for key in ("image_grid_thw", "image_sizes", "pixel_values") if key in inputs))
        chunks = [list(recording.attention_chunks(run, image, chunk=5)) for image in range(images)]
        rows = [torch.cat([part for _, part in mine], 1) for mine in chunks]
        assert [first for first, _ in chunks[0]] == list(range(0, rows[0].shape[1], 5))
        seen.append((run.index, rows, functools.partial(recording.states, run)))

    with session_of(family) as session, recording.reading((), watch):
        read_prompt_once(session, inputs)
    return seen


@pytest.mark.parametrize("name", ["llava", "llava_next", "llava_onevision"])
def test_clip_and_siglip(name):
    family = FAMILIES[name]
    inputs = family.inputs("middle", "last") if name == "llava_onevision" else family.inputs("two")
    seen, eager = seen_tower(family, inputs), family.model("eager")
    weights, outputs = [], []
    handles = [
        handle
        for layer in adapter_for(eager).tower_layers
        for handle in (
            layer.self_attn.register_forward_hook(lambda m, a, output: weights.append(output[1])),
            layer.register_forward_hook(lambda m, a, output: outputs.append(output)),
        )
    ]
    with torch.no_grad():
        eager(**inputs)
    for handle in handles:
        handle.remove()
    adapter = adapter_for(eager)
    counts, cls = adapter.crops(inputs), int(name != "llava_onevision")
    assert len(seen) == len(weights)
    for (_, rows, states_of), whole, output in zip(seen, weights, outputs, strict=True):
        start = 0
        for image, count in enumerate(counts):
            crops = whole[start : start + count].mean(1)[:, cls:, cls:]
            assert torch.allclose(rows[image], crops, atol=1e-5)
            if name != "llava_onevision":  # whose rows are placeholders, packed
                cells = crops.shape[1]
                chosen = torch.tensor([3, cells - 1, count * cells - 2])
                direct = torch.stack([output[start + int(r) // cells, cls + int(r) % cells] for r in chosen])
                assert torch.allclose(states_of(image, chosen), direct, atol=1e-4)
            start += count


def test_rows_of_siglip_are_placeholders():
    """OneVision packs its projected features: those of the last layer's states are what enters the LLM."""
    family = FAMILIES["llava_onevision"]
    model, inputs, found = family.model(), family.inputs("middle"), {}
    adapter = adapter_for(model)
    recording = adapter.new_recording(inputs)

    def watch(run):
        found[run.index] = recording.states(run, 0, torch.arange(16))  # the base view, which is never interpolated

    with session_of(family) as session, recording.reading((), watch):
        read_prompt_once(session, inputs)
    images = {name: inputs[name] for name in ("pixel_values", "image_sizes")}
    with torch.no_grad():
        features = model.model.get_image_features(**images).pooler_output[0][:16]
        assert torch.allclose(adapter.projector(found[adapter.feature_layer]), features, atol=1e-4)
        assert not torch.allclose(adapter.projector(found[0]), features, atol=1e-2)


@pytest.mark.parametrize("name", QWENS)
def test_qwen(name, monkeypatch):
    family = FAMILIES[name]
    inputs, model = family.inputs("two"), family.model("eager")
    seen, weights, outputs = seen_tower(family, inputs), [], []
    modeling = sys.modules[type(model).__module__]
    plain = modeling.eager_attention_forward

    def spy(module, *args, **kwargs):
        output = plain(module, *args, **kwargs)
        if hasattr(module, "qkv"):
            weights.append(output[1][0].mean(0))
        return output

    monkeypatch.setattr(modeling, "eager_attention_forward", spy)
    handles = [b.register_forward_hook(lambda m, a, output: outputs.append(output)) for b in model.model.visual.blocks]
    with torch.no_grad():
        model(**inputs)
    for handle in handles:
        handle.remove()
    total, merge = len(inputs["pixel_values"]), 4
    left = iter(weights)
    sizes = [rows * columns for rows, columns in (family.sizes[1], family.sizes[2])]
    order = torch.arange(sum(sizes))
    if name == "qwen2_5_vl":
        order = torch.cat([window_by_window(*family.sizes[n], start=s) for n, s in ((1, 0), (2, sizes[0]))])
    for (_, rows, states_of), output in zip(seen, outputs, strict=True):
        whole, at = torch.zeros(total, total), 0
        while at < total:
            part = next(left)
            whole[at : at + len(part), at : at + len(part)] = part
            at += len(part)
        by_token = whole.view(total // merge, merge, total // merge, merge).sum(3).mean(1)[order][:, order]
        states = output.view(total // merge, merge, -1).mean(1)[order]
        for image, (start, size) in enumerate(((0, sizes[0]), (sizes[0], sizes[1]))):
            block = slice(start, start + size)
            assert torch.allclose(rows[image][0], by_token[block, block], atol=1e-5)
            assert torch.allclose(states_of(image, torch.arange(size)), states[block], atol=1e-4)
    assert next(left, None) is None


def window_by_window(rows, columns, start, window=2):
    """Place of each token, in raster order, when 2 x 2 windows follow each other."""
    order = [
        (row, column)
        for top in range(0, rows, window)
        for left in range(0, columns, window)
        for row in range(top, min(top + window, rows))
        for column in range(left, min(left + window, columns))
    ]
    return torch.tensor([start + order.index((r, c)) for r in range(rows) for c in range(columns)])


@pytest.mark.parametrize(("positive", "negative"), [(4, -1), (3, -2), (2, -3)])
def test_a_feature_layer_counts_from_either_end(positive, negative, monkeypatch):
    """Of transformers' states, of which number 0 enters the first layer."""
    family, tap, read = FAMILIES["llava"], Tap("keys"), []
    model, images = family.model(), family.pictures(0, 1)
    for layer in (positive, negative):
        monkeypatch.setattr(model.config, "vision_feature_layer", layer)
        with torch.no_grad(), adapter_for(model).record((tap,), images) as recording:
            model.model.get_image_features(**images)
        read.append((recording.value(tap), recording.selected))
    for one, other in zip(*read, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_recording_comes_back_from_its_tensors_and_shows_owners(name):
    family, taps = FAMILIES[name], (Tap("received_attention"), Tap("keys"), Tap("hidden_mean", 0.5))
    model, images = family.model(), family.pictures(1, 0)
    adapter, rows = adapter_for(model), torch.arange(5)
    with torch.no_grad(), adapter.record(taps, images) as recording:
        model.model.get_image_features(**images)
    again = adapter.new_recording(images)
    again.load_state_dict(recording.state_dict(taps), taps)
    again.expand_to([1, 0, 1])
    for image, owner in enumerate((1, 0, 1)):
        assert torch.equal(again.features(image, rows), recording.features(owner, rows))
        for tap in taps:
            assert torch.equal(again.view(tap, image, rows), recording.view(tap, owner, rows))
