"""Records of samples on every family, recomputed from eager maps and states of the plain model."""

import math

import numpy as np
import pytest
import torch
from helpers.families_toy import toy
from PIL import Image

from nuwa.analysis.structure import registers, spatial_structure, text_relation
from nuwa.analysis.survey import attention_flow, average, gradient_flow
from nuwa.benchmarks.scenes import Scenes
from nuwa.models import adapter_for
from nuwa.samples import Sample

BENCHMARK = Scenes(4)
FAMILIES = ("llava", "llava_next", "llava_onevision", "qwen2_5_vl")
BOX = (0.3, 0.2, 0.75, 0.6)


def loaded(family, attention="sdpa"):
    return toy(family, attention=attention, weights_boost=3.0)


def sample(task="vg", box=BOX):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels).resize((112, 80), Image.Resampling.BICUBIC)
    return Sample("one", task, (picture,), "where is the dog?", box)


class Plain:
    """Everything the eager model says about one sample: attention (L, L) head mean, states, features, layout."""

    def __init__(self, family, question):
        parts = loaded(family, "eager")
        self.inputs = parts.encode([question])
        with torch.no_grad():
            output = parts.model(**self.inputs, output_attentions=True, output_hidden_states=True)
            images = {k: v for k, v in self.inputs.items() if k in ("pixel_values", "image_sizes", "image_grid_thw")}
            features = parts.model.model.get_image_features(**images).pooler_output
        self.attention = [layer[0].mean(0) for layer in output.attentions]
        self.states = [states[0] for states in output.hidden_states]
        self.layout = adapter_for(parts.model).layouts(list(features), images)[0]
        ids = self.inputs["input_ids"][0]
        self.image = (ids == parts.model.config.image_token_id).nonzero()[:, 0]
        self.text = list(range(int(self.image[-1]) + 1, len(ids)))


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


def entropy(rows):
    """Eq. 1 token by token."""
    values = []
    for i in range(1, len(rows)):
        shares = rows[i, :i] / rows[i, :i].sum()
        values.append(-sum(float(p) * math.log2(p) for p in shares if p > 0))
    return sum(values) / len(values)


def test_entropy_and_cohesion_of_the_llm(family):
    question = sample()
    plain, found = Plain(family, question), spatial_structure(loaded(family), BENCHMARK, question)
    patches = plain.image[plain.layout.source >= 0]
    for layer, attention in enumerate(plain.attention):
        value = entropy(attention[patches][:, patches].double())
        assert pick(found, layer, part="llm", measure="vae") == [pytest.approx(value, abs=1e-5)]
    for number, view in enumerate(plain.layout.views):
        states = plain.states[1][plain.image[view.tokens]]
        assert pick(found, 0, part="llm", measure="occ", view=number) == [occ(family, states, view.grid)]
    tower = pick(found, 0, part="tower", measure="occ")
    assert len(tower) == len(plain.layout.views) and not pick(found, None, measure="no_occ")


def occ(family, states, grid):
    """Eq. 2, with the box moved to the grid by hand."""
    x0, y0, x1, y1 = BOX
    if family == "llava":  # 112 x 80 padded to 112 x 112
        y0, y1 = (y0 * 80 + 16) / 112, (y1 * 80 + 16) / 112
    rows, columns = grid
    members = {
        r * columns + c
        for r in range(rows)
        for c in range(columns)
        if x0 <= (c + 0.5) / columns <= x1 and y0 <= (r + 0.5) / rows <= y1
    }
    center = int((y0 + y1) / 2 * rows) * columns + int((x0 + x1) / 2 * columns)
    direction = states / states.norm(dim=1, keepdim=True)
    nearest = set((direction @ direction[center]).topk(len(members | {center})).indices.tolist())
    members |= {center}
    return pytest.approx(len(members & nearest) / len(members | nearest))


def test_alignment_and_registers(family):
    question = sample()
    plain, found = Plain(family, question), text_relation(loaded(family), BENCHMARK, question)
    patches = plain.image[plain.layout.source >= 0]
    states = plain.states[1]
    mean = states[plain.text].mean(0)
    cosine = states[patches] @ mean / states[patches].norm(dim=1) / mean.norm()
    assert pick(found, 0, measure="all") == [pytest.approx(float(cosine.mean()), abs=1e-5)]
    inside, outside = (pick(found, 0, measure=name)[0] for name in ("inside", "outside"))
    assert min(inside, outside) < float(cosine.mean()) < max(inside, outside)
    found = registers(loaded(family), question)
    attended = plain.attention[1][plain.text][:, patches].mean(0).topk(3).indices.tolist()
    norms = states[patches].norm(dim=1).topk(3).indices.tolist()
    assert pick(found, 1, measure="llm") == [pytest.approx(len(set(attended) & set(norms)) / 3)]
    assert len(pick(found, 1, measure="tower")) == 1


def test_flows(family):
    question = sample("vqa")
    plain, found = Plain(family, question), attention_flow(loaded(family), question)
    text = plain.text[:-1]
    share = plain.attention[1][text][:, plain.image].sum(1).mean()
    assert pick(found, 1, source="text", target="vision", per="token") == [pytest.approx(float(share), abs=1e-5)]
    assert sum(pick(found, 1, source="last", per="token")) == pytest.approx(1, abs=1e-5)
    assert pick(found, 1, source="text", target="vision", per="group") == [
        pytest.approx(float(share) * len(text), 1e-4)
    ]
    found = gradient_flow(loaded(family), BENCHMARK, question)
    assert {entry["layer"] for entry in found} == {0, 1}
    assert all(entry["value"] >= 0 for entry in found) and any(entry["value"] > 0 for entry in found)


def pick(records, layer, **wanted):
    return [
        entry["value"]
        for entry in records
        if entry["layer"] == layer and all(entry.get(key) == value for key, value in wanted.items())
    ]


def test_samples_without_tokens_of_a_box_say_so():
    for question, reason in (
        (sample("vqa", ("a dog",)), "no box"),
        (sample(box=(1.2, 0.1, 1.5, 0.4)), "outside of the picture"),
    ):
        found = spatial_structure(loaded("llava"), BENCHMARK, question)
        assert not [entry for entry in found if entry["measure"] == "occ"]
        (why,) = [entry["reason"] for entry in found if entry["measure"] == "no_occ"]
        assert reason in why
        assert "inside" not in {entry["measure"] for entry in text_relation(loaded("llava"), BENCHMARK, question)}


def test_average():
    records = [{"task": task, "layer": 0, "value": value} for task, value in (("vqa", 1), ("vg", 5), ("vqa", 3))]
    first, second = average(records, ("task", "layer"))
    assert first == {"task": "vqa", "layer": 0, "mean": 2, "error": pytest.approx(1), "n": 2}
    assert second["n"] == 1 and math.isnan(second["error"])
