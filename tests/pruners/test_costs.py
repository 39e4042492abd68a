"""What choosing costs, by formulas written out here, and what decisions hand to pictures and analyses."""

from itertools import pairwise

import pytest
import torch
from helpers.golden_cases import noise, vision_context

import nuwa
from nuwa.pruners import HiPrune, HoloV, Nuwa, NuwaRelease, NuwaReleaseQwen, PruMerge, VisionZip, VisPruner
from nuwa.pruning.flops import ModelShape

N, KEEP, HIDDEN, KEY, VISION = 64, 16, 11, 10, 7
"""Tokens of an image and of a budget; widths of the LLM, of its keys together, of the vision tower."""
SHAPE = ModelShape(layers=16, hidden=HIDDEN, intermediate=13, kv_heads=2, head_dim=5, vision_hidden=VISION)


def stages(schedule):
    """Before and after each stage inside the LLM."""
    counts = [schedule.vision, *(count for _, count in schedule.llm)]
    return list(pairwise(counts))


def rows_of_stages(schedule):
    return sum(2 * before * HIDDEN for before, _ in stages(schedule))


def changing(schedule):
    """Tokens in the layers whose changes are added up."""
    return schedule.per_layer(16)[schedule.llm[0][0] - 1 : schedule.llm[-1][0]]


@pytest.mark.parametrize(
    ("name", "flops"),
    [
        ("cdpruner", lambda plan: 2 * N * HIDDEN + KEEP * N * (2 * HIDDEN + KEEP)),
        ("dart", lambda plan: 2 * N * KEY + 8 * 2 * N * HIDDEN),
        ("divprune", lambda plan: N**2 * HIDDEN + KEEP * N * HIDDEN),
        ("fastv", lambda plan: 2 * N * HIDDEN),
        ("feather", rows_of_stages),
        ("hiprune", lambda plan: 2 * 2 * N**2 * VISION),
        ("holov", lambda plan: 2 * N * VISION + 16 * (N / 16) ** 2 * HIDDEN),
        # one row of the text and one of the only seed, and the values themselves
        ("ivc_prune", lambda plan: 2 * 2 * N * HIDDEN + 2 * N * HIDDEN * KEY),
        ("mmtok", lambda plan: N**2 * VISION + 2 * KEEP * N**2),
        ("nuwa", lambda plan: 2 * N * HIDDEN + plan.vision**2 * VISION),
        ("nuwa_release", lambda plan: 2 * N * HIDDEN + plan.vision**2 * VISION),
        ("nuwa_release_qwen", lambda plan: 2 * N**2 * HIDDEN + plan.vision**2 * VISION),
        ("prumerge", lambda plan: 2 * N * VISION + KEEP * N * VISION),
        # 4 components; kept 8 by DivPrune, 56 others to 8 anchors; 12 rounds of 4 even-odd pairings
        ("occamtoken", lambda plan: 2 * N * VISION + 2 * plan.vision * HIDDEN),
        ("prunesid", lambda plan: 2 * N * VISION + 6 * 2 * N * VISION * 4 + N**2 * VISION),
        ("pyramiddrop", rows_of_stages),
        ("restore", lambda plan: N**2 * HIDDEN + 8 * N * HIDDEN + 56**2 * HIDDEN + 56 * 8 * HIDDEN),
        ("saint", lambda plan: sum((before / 2) ** 2 for before, _ in stages(plan)) * 5),
        ("sparsevlm", lambda p: rows_of_stages(p) + sum((int(0.3 * (a - b)) + 1) ** 2 * HIDDEN for a, b in stages(p))),
        ("sparsevlm_plus", rows_of_stages),
        ("tofu", lambda plan: 2 * N * VISION + sum((left / 2) ** 2 for left in range(64, 16, -4)) * 5),
        # six norms' worth for each layer from the one before the first stage to the one before the last
        ("transprune", lambda p: rows_of_stages(p) + sum(12 * n * HIDDEN for n in changing(p))),
        ("visionzip", lambda plan: 2 * N * HIDDEN + KEEP**2 * VISION),
        ("vlm_pruner", lambda p: 4 * 2 * N * KEY + N**2 * (HIDDEN + 2) + p.llm[0][1] * N * HIDDEN),
        # half is chosen by attention; of the 56 others 8 leave a round, even ones compared with odd ones
        ("vispruner", lambda plan: 2 * N * VISION + sum((left / 2) ** 2 for left in (56, 48, 40, 32, 24, 16)) * VISION),
    ],
)
def test_costs_of_choosing(name, flops):
    pruner = nuwa.load_pruner(name, budget=KEEP)
    plan = pruner.schedule(N, SHAPE.layers)
    assert pruner.metric_flops(N, SHAPE) == pytest.approx(flops(plan))
    if plan.llm:
        assert len(stages(plan)) == len(plan.llm) and stages(plan)[0][0] == plan.vision


def test_sparsevlm_without_recycling_costs_rows_alone():
    pruner = nuwa.load_pruner("sparsevlm", budget=KEEP, recycle=False)
    assert pruner.metric_flops(N, SHAPE) == rows_of_stages(pruner.schedule(N, SHAPE.layers))


def test_composed_costs_what_its_parts_cost():
    whole = nuwa.load_pruner("composed", budget=KEEP, vision="visionzip", llm="pyramiddrop")
    plan = whole.schedule(N, SHAPE.layers)
    assert plan.vision == 32  # half of the way from 64 to 16, in the logarithm
    assert whole.metric_flops(N, SHAPE) == 2 * N * HIDDEN + 32**2 * VISION + rows_of_stages(plan)


@pytest.mark.parametrize(
    ("pruner", "names"),
    [
        (HiPrune(), {"salience": "deep", "object": "shallow"}),
        (HoloV(crops=4), {"salience": "mean"}),
        (Nuwa(), {"salience": "key", "pillar": "mask"}),
        (NuwaRelease(), {"salience": "sum", "pillar": "mask"}),
        (NuwaReleaseQwen(), {"salience": "received", "pillar": "mask"}),
        (PruMerge(), {"salience": "reader"}),
        (VisionZip(), {"salience": "sum"}),
        (VisPruner(), {"salience": "mean"}),
    ],
    ids=lambda x: getattr(x, "name", ""),
)
def test_decisions_show_what_they_went_by(pruner, names):
    attention, keys = noise(2, 3, 16, seed=1).softmax(-1), noise(2, 16, 12, seed=2)
    received, shallow = noise(2, 16, seed=3).softmax(-1), noise(2, 16, seed=4).softmax(-1)
    query, reader_keys = noise(2, 1, 12, seed=5), noise(2, 17, 12, seed=6)
    reader = (query @ reader_keys.mT / 12**0.5).softmax(-1)[:, 0, 1:]
    known = {"deep": received, "shallow": shallow, "mean": attention.mean(1), "sum": attention.sum(1)}
    known |= {"key": attention.mean(1) * keys.norm(dim=-1), "received": received, "reader": reader}
    taps = {"attention": attention, "keys": keys, "states": noise(2, 16, 6, seed=7), "deep": received}
    taps |= {"shallow": shallow} | ({"query": query, "keys": reader_keys} if pruner.name == "prumerge" else {})
    if pruner.name == "nuwa_release_qwen":
        taps["attention"] = received
    decision = pruner.prune_vision(vision_context((4, 4), noise(2, 16, 5, seed=8), taps), 6)
    assert set(decision.extras) == set(names)
    for name, source in names.items():
        if source == "mask":
            assert decision.extras[name].dtype == torch.bool and decision.extras[name].shape == decision.keep.shape
        else:
            torch.testing.assert_close(decision.extras[name], known[source])
