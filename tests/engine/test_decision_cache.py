"""The vision stage of jobs that differ in what comes behind it is decided once, and changes no bit."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields, replace

import pytest
import torch
from helpers.families import FAMILIES
from helpers.support import Fixed
from helpers.video_prompts import Clips

import nuwa
from nuwa.engine.decision_cache import DecisionCache
from nuwa.engine.feature_cache import FeatureCache
from nuwa.pruners import Pruner
from nuwa.pruners.base import Tap, VisionContext, VisionDecision
from nuwa.pruners.catalogue import method_names
from nuwa.pruning.budget import Budget

LLAVA = FAMILIES["llava"]


@pytest.fixture
def asked(monkeypatch):
    """How often each kind of method was asked to prune before the LLM."""
    counts = Counter()
    for kind in (nuwa.pruners.Nuwa, nuwa.pruners.DivPrune, nuwa.pruners.FlashVID, nuwa.pruners.VisionZip, Fixed):
        own = kind.prune_vision

        def counted(self, context, keep, own=own, kind=kind):
            counts[kind.__name__] += type(self) is kind
            return own(self, context, keep)

        monkeypatch.setattr(kind, "prune_vision", counted)
    return counts


@torch.no_grad()
def logits(pruner, position="native", cache=None, prompts=("two",), about=None, share=False, images=None):
    inputs, model = LLAVA.inputs(*prompts), LLAVA.model()
    inputs |= {} if images is None else LLAVA.pictures(*images)
    with nuwa.prune(model, pruner, position, cache=cache, share=share) as session, session.about(**about or {}):
        return model(**inputs).logits


def test_points_that_differ_in_stage_2_or_position_decide_on_stage_1_once(asked, tmp_path):
    cache, first = FeatureCache(tmp_path, "space", 10**8), nuwa.load_pruner("nuwa", budget=20)
    entering = first.schedule(64, 6).vision
    later = replace(first, stage2_layer=2 / 3)
    later = replace(later, budget=Budget(average=later_average(later, entering)))
    assert later.schedule(64, 6).vision == entering and later.schedule(64, 6) != first.schedule(64, 6)
    points = [(first, "perc"), (first, "pesp"), (first, "rpme"), (replace(first, random=True), "pesp"), (later, "pesp")]
    found = [logits(pruner, position, cache) for pruner, position in points]
    assert asked == {"Nuwa": 1}
    for (pruner, position), ours in zip(points, found, strict=True):
        assert torch.equal(ours, logits(pruner, position))
    assert not torch.equal(found[1], found[3]) and not torch.equal(found[1], found[4])


def later_average(pruner, entering):
    """A budget with which as many tokens enter the LLM."""
    for average in torch.arange(5, 60, 0.25).tolist():
        if replace(pruner, budget=Budget(average=average)).schedule(64, 6).vision == entering:
            return average
    raise AssertionError("no budget does")


@pytest.mark.parametrize(
    "other",
    [
        {"d_thresh": 1.0},
        {"pillar": False},
        {"seed": 1},
        {"budget": Budget(average=12)},
    ],
)
def test_what_stage_1_reads_makes_another_decision(other, asked, tmp_path):
    cache, pruner = FeatureCache(tmp_path, "space", 10**8), nuwa.load_pruner("nuwa", budget=20)
    logits(pruner, cache=cache)
    assert torch.equal(logits(replace(pruner, **other), cache=cache), logits(replace(pruner, **other)))
    assert asked == {"Nuwa": 3}  # two of them with the cache


def test_names_and_questions_are_part_of_what_was_decided_about(asked, tmp_path):
    cache, pruner = FeatureCache(tmp_path, "space", 10**8), nuwa.load_pruner("divprune", budget=20)
    told = [{"ids": ["a", "b"]}, {"ids": ["a", "c"]}, {"ids": ["a", "b"], "questions": ["how many?", "where?"]}]
    for about in (*told, *told):
        logits(pruner, cache=cache, about=about)
    assert asked == {"DivPrune": 3}


def test_which_of_equal_pictures_stands_where_is_not_mixed_up(asked, tmp_path):
    """The tower sees the same two pictures in the same order in all calls."""
    cache, pruner = FeatureCache(tmp_path, "space", 10**8), nuwa.load_pruner("visionzip", budget=20)
    options = {"prompts": ("two", "first"), "share": True, "about": {"ids": ["x", "y", "z"]}}
    for images in ((0, 1, 0), (0, 1, 1), (0, 0, 1)):
        for _ in range(2):
            found = logits(pruner, cache=cache, images=images, **options)
            assert torch.equal(found, logits(pruner, images=images, **options))
    assert asked == {"VisionZip": 3 * 3}


def test_a_method_of_another_package_decides_every_time(asked, tmp_path):
    """Its code may change between two jobs, and nothing would say so."""
    cache = FeatureCache(tmp_path, "space", 10**8)
    for _ in range(2):
        logits(Fixed(20), cache=cache)
    assert asked == {"Fixed": 2} and Fixed(20).vision_key == ""


def test_what_watches_a_method_sees_every_decision(tmp_path):
    cache, pruner, seen = FeatureCache(tmp_path, "space", 10**8), nuwa.load_pruner("composed", budget=16), []
    own = pruner.prune_vision
    logits(pruner, cache=cache)
    vars(pruner)["prune_vision"] = lambda context, keep: seen.append(keep) or own(context, keep)
    logits(pruner, cache=cache)
    assert len(seen) == 1


def test_a_composed_method_shares_its_vision_part(asked, tmp_path):
    cache, found = FeatureCache(tmp_path, "space", 10**8), []
    for llm, position in (("fastv", "pesp"), ("pyramiddrop", "pesp"), ("pyramiddrop", "perc")):
        pruner = nuwa.load_pruner("composed", budget=16, vision="divprune", llm=llm)
        found.append(logits(pruner, position, cache))
        assert torch.equal(found[-1], logits(pruner, position))
    assert asked == {"DivPrune": 1 + 3}
    assert not torch.equal(found[0], found[1]) and not torch.equal(found[1], found[2])


@torch.no_grad()
def test_a_video_is_compressed_once_for_all_positions(asked, tmp_path):
    clips = Clips("llava_onevision")
    model, inputs, cache = clips.model(), clips.inputs("video"), FeatureCache(tmp_path, "space", 10**9)
    pruner, found = nuwa.load_pruner("flashvid", budget=Budget(ratio=0.5)), {}
    for position in ("perc", "pesp"):
        for used in (cache, None):
            with nuwa.prune(model, pruner, position, cache=used):
                found[position, used] = model(**inputs).logits[:, -1]
        assert torch.equal(found[position, cache], found[position, None])
    assert asked == {"FlashVID": 1 + 2} and not torch.equal(found["perc", None], found["pesp", None])


def example(kind):
    """What a vision stage may be shown: a video of 4 frames of 16 tokens, of two axes of ids."""
    made = torch.Generator().manual_seed(0)
    shapes = {"cls_attention": (1, 2, 64), "received_attention": (1, 64), "register_attention": (1, 2, 1)}
    shapes |= {"cls_feature": (1, 1, 8), "register_feature": (1, 1, 8)}
    taps = {
        name: torch.rand(shapes.get(tap.kind, (1, 64, 8)), generator=made)
        for name, tap in kind.taps.items()
        if isinstance(tap, Tap)
    }
    features = torch.randn(1, 64, 8, generator=made)
    return VisionContext((16, 4), features, taps, ["a"], project=lambda values: values, frames=4)


OTHER = {
    "budget": Budget(average=7),
    "random": True,
    "stage2_layer": 0.25,
    "stage2_ratio": 0.5,
    "inner_layer": 0.25,
    "inner_keep": 0.9,
    "lambda2": 7.0,
    "layer": 0.75,
}
"""Another value of every option that a method says its vision stage does not read."""
DECLARED = [(name, option) for name in method_names() for option in sorted(type(nuwa.load_pruner(name)).behind_vision)]


@pytest.mark.parametrize(("name", "option"), DECLARED)
def test_no_vision_stage_reads_what_its_method_says_it_does_not(name, option):
    pruner = nuwa.load_pruner(name, budget=20)
    other = replace(pruner, **{option: OTHER[option]})
    assert other != pruner and other.vision_key == pruner.vision_key
    context = example(pruner)
    one, two = pruner.prune_vision(context, 12), other.prune_vision(context, 12)
    for part in fields(VisionDecision):
        mine, theirs = getattr(one, part.name), getattr(two, part.name)
        if part.name == "extras":
            assert mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)
        else:
            assert (mine is None) == (theirs is None) and (mine is None or torch.equal(mine, theirs))


@pytest.mark.parametrize("name", [name for name in method_names() if name != "composed"])
def test_every_other_option_names_another_vision_stage(name):
    pruner = nuwa.load_pruner(name)
    for option in fields(pruner):
        if option.name in pruner.behind_vision:
            continue
        other = nuwa.load_pruner(name)
        setattr(other, option.name, "another value")
        assert other.vision_key != pruner.vision_key


def test_a_decision_comes_back_bit_by_bit(tmp_path):
    cells, values = torch.tensor([[3, 1], [0, 2]]), torch.arange(16.0).view(2, 2, 4)
    decision = VisionDecision(
        keep=cells,
        features=values.bfloat16(),
        extras={"salience": values[..., 0], "pillar": cells > 1},
        counts=torch.tensor([2, 1]),
        projected=values.half(),
        members=torch.tensor([[1, 1, -1, 0], [0, 1, 1, -1]]),
        sizes=torch.ones(2, 2),
        shares=torch.rand(2, 4),
        weights=torch.rand(2, 2, 4),
    )

    class Told(Pruner):
        name = "told"
        vision_key = "told"

        def prune_vision(self, context, keep):
            return decision

    cache = DecisionCache(FeatureCache(tmp_path, "space", 10**8), "call")
    context = VisionContext((2, 2), torch.zeros(2, 4, 4), {}, ["a", "b"], project=lambda x: x)
    views = [(0, torch.arange(4)), (1, torch.arange(4))]
    assert cache.decide(Told(), context, 2, views) is decision
    again = cache.decide(Told(), context, 2, views)
    for part in fields(VisionDecision):
        mine, kept = getattr(again, part.name), getattr(decision, part.name)
        pairs = [(mine[key], kept[key]) for key in kept] if part.name == "extras" else [(mine, kept)]
        assert all(torch.equal(*pair) and pair[0].dtype == pair[1].dtype for pair in pairs)
    for other in ([(1, views[0][1]), views[1]], [(0, torch.tensor([3, 2, 1, 0])), views[1]]):
        assert cache.decide(Told(), context, 2, other) is decision
