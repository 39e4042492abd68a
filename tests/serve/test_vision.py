"""What an engine is given equals what a session lets into the LLM: features, and the angles by which ids turn them."""

from functools import partial

import pytest
import torch
from helpers.jobs import compose

from nuwa import load_pruner, prune
from nuwa.benchmarks.scenes import Scenes
from nuwa.config import build, typed
from nuwa.pruning.budget import Budget
from nuwa.samples import Sample
from nuwa.serve.positions import PictureSpan, ids_taken, place_ids, prompt_ids
from nuwa.serve.settings import Served, places_ids
from nuwa.serve.vision import COUNT, TAKEN, Pictures, Vision, tower_alone

CASES = [
    ("tiny_llava", Served(pruner="visionzip", average=64, position="pesp")),
    ("tiny_llava", Served(pruner="visionzip", average=64, position="perc")),
    ("tiny_llava", Served(pruner="visionzip", average=64, position="median")),
    ("tiny_llava", Served(pruner="nuwa", options={"stage2_ratio": 1.0}, average=64, position="rpme")),
    ("tiny_llava", Served(pruner="random", average=64, position="rpme", seed=3)),
    ("tiny_llava", Served(pruner="grid", average=64, position="pesp")),
    ("tiny_llava", Served(pruner="downsample", average=64, position="rpme")),
    ("tiny_llava", Served()),
    ("tiny_qwen", Served(pruner="divprune", ratio=0.25, position="pesp")),
    ("tiny_qwen", Served(pruner="divprune", ratio=0.25, position="perc")),
    ("tiny_qwen", Served(pruner="nuwa", options={"stage2_ratio": 1.0}, ratio=0.25, position="rpme")),
    ("tiny_qwen", Served(pruner="visionzip", average=36, position="rpme_1d")),
    ("tiny_qwen", Served(pruner="pooling", ratio=0.3, position="median")),
    ("tiny_qwen", Served(pruner="grid", average=30, position="pesp")),
    ("tiny_qwen", Served(pruner="vidcom2", options={"variant": "vllm"}, ratio=0.25)),
    ("tiny_qwen", Served()),
    ("qwen3_vl_random", Served(pruner="visionzip", ratio=0.25, position="pesp")),  # merges, in all planes
    ("qwen3_vl_random", Served(pruner="divprune", ratio=0.25, position="perc")),
    ("qwen3_vl_random", Served(pruner="nuwa", options={"stage2_ratio": 1.0}, ratio=0.25, position="rpme")),
    ("qwen3_vl_random", Served(pruner="grid", average=9, position="pesp")),
    ("qwen3_vl_random", Served()),
]


@pytest.fixture(scope="module")
def models():
    loaded = {}

    def load(name):
        if name not in loaded:
            loaded[name] = build(typed(compose(f"model={name}"), "model"))
            loaded[name].model.config.get_text_config().max_position_embeddings = 2048  # for two pictures
        return loaded[name]

    return load


@pytest.fixture(scope="module")
def sample():
    """A question about two pictures, of which the second has another shape."""
    one, two = (Scenes(samples=2, seed=5)[number] for number in range(2))
    return Sample("two", "vqa", (one.images[0], two.images[0].resize((112, 84))), one.text, None)


def entering(loaded, session, inputs):
    """Hidden states and rotary angles on entry of the first layer, and what is added behind the first ones."""
    states, angles = {}, []

    def enter(number, module, args, kwargs):
        states["into", number] = args[0][0]
        angles.append(kwargs["position_embeddings"])

    def leave(number, module, args, output):
        states["out of", number] = output[0]

    handles = []
    with session, torch.no_grad():
        for number, layer in enumerate(session.adapter.layers[: session.adapter.planes + 1]):
            handles.append(layer.register_forward_pre_hook(partial(enter, number), with_kwargs=True))
            handles.append(layer.register_forward_hook(partial(leave, number)))
        loaded.model(**inputs)
    for handle in handles:
        handle.remove()
    planes = [states["into", n + 1] - states["out of", n] for n in range(session.adapter.planes)]
    return torch.cat([states["into", 0], *planes], 1), angles[0]


@pytest.mark.parametrize(("name", "served"), CASES)
def test_an_engine_gets_what_a_session_lets_in(models, sample, tmp_path, name, served):
    loaded = models(name)
    most = 1 if served.pruner == "divprune" else 2048  # tokens at once: one picture, or both
    pruner = load_pruner(served.pruner, Budget(served.average, served.ratio), seed=served.seed, **served.options or {})
    session = prune(loaded.model, pruner, served.position)
    hidden, (cos, sin) = entering(loaded, session, loaded.encode([sample]))
    family, config = session.adapter, loaded.model.config

    tower = tower_alone(config, "sdpa", torch.float32)
    whole = loaded.model.state_dict()
    tower.load_state_dict({key: whole[key] for key in tower.state_dict()})
    loaded.pictures.pil.save_pretrained(tmp_path)
    pictures = Pictures(config, served, tmp_path)
    inputs = pictures.encode(sample.images)
    assert inputs[TAKEN].tolist() == [ids_taken(pictures.grid(image), family.axes) for image in sample.images]
    encoded = Vision(config, served, tower, most).encode(
        {key: inputs[key] for key in inputs if key not in (COUNT, TAKEN)}
    )

    ids = loaded.prompt_ids(sample).tolist()
    tokens, spans = [], []
    for token in ids:
        picture = len(spans)
        if token == config.image_token_id:
            spans.append(PictureSpan(len(tokens), int(inputs[COUNT][picture]), int(inputs[TAKEN][picture])))
            tokens += [token] * spans[-1].count
        else:
            tokens.append(token)
    rows, _ = prompt_ids(len(tokens), spans, places_ids(served, family))
    places = (torch.tensor(tokens) == config.image_token_id).nonzero()[:, 0]
    if places_ids(served, family):
        rows = place_ids(rows, places, torch.cat([kept for _, kept in encoded], 1))

    assert len(tokens) == len(hidden)
    assert torch.allclose(torch.cat([features for features, _ in encoded]), hidden[places], atol=1e-5)
    axes = rows[:, None] if family.axes == 3 else rows[1:2, None]
    for ours, theirs in zip(family.rotary("full_attention", hidden[None], axes), (cos, sin), strict=True):
        assert torch.equal(ours[0], theirs[0])
