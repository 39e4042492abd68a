"""The peers' budgets: their authors' counts, averages that are met, refusals that say what is possible, costs."""

import pytest
import torch
from helpers.families import FAMILIES
from helpers.golden_cases import vision_context

import nuwa
from nuwa.pruners import RandomPruner
from nuwa.pruners.catalogue import method_names
from nuwa.pruners.pooling import near_squares, pooled_grid
from nuwa.pruners.sparsevlm import clusters_for, kept_before_recycling
from nuwa.pruning.budget import Budget, BudgetError
from nuwa.pruning.flops import ModelShape, llm_flops
from nuwa.pruning.schedules import Schedule

ONE_SHOT = ["divprune", "downsample", "grid", "hiprune", "holov", "prumerge", "prumerge_plus", "vispruner"]
ONE_SHOT += ["mmtok", "prunesid", "restore", "tofu"]


def plan(name, average, n_tokens=576, layers=32, **options):
    return nuwa.load_pruner(name, budget=average, **options).schedule(n_tokens, layers)


@pytest.mark.parametrize("name", ONE_SHOT)
@pytest.mark.parametrize("average", [64, 128, 192])
def test_one_shot_counts(name, average):
    assert plan(name, average) == Schedule(average)


@pytest.mark.parametrize("average", [64, 128, 192])
def test_cdpruner_acts_before_layer_0(average):
    assert plan("cdpruner", average) == Schedule(576, ((0, average),))
    assert plan("cdpruner", average).per_layer(32) == [average] * 32


@pytest.mark.parametrize(
    ("nominal", "kept"), [(64, (66, 30, 17)), (96, (238, 48, 26)), (128, (303, 110, 36)), (192, (300, 200, 110))]
)
def test_sparsevlm_lists(nominal, kept):
    """methods.md 0.2 and 4: the authors' lists, and the tokens with recycling where it gives them."""
    with_merged = {64: (82, 32, 18), 128: (312, 117, 39), 192: (309, 204, 113)}
    schedule = plan("sparsevlm", nominal, counting="authors")
    assert [layer for layer, _ in schedule.llm] == [3, 7, 16]
    counts = [count for _, count in schedule.llm]
    assert tuple(counts) == with_merged.get(nominal, tuple(counts))
    before = [576, *counts]
    assert tuple(map(kept_before_recycling, counts, before)) == kept
    assert plan("sparsevlm", nominal, counting="authors", recycle=False).llm == tuple(
        zip((3, 7, 16), kept, strict=True)
    )


@pytest.mark.parametrize(("nominal", "entering"), [(64, 82.25), (128, 145.4), (192, 206.5)])
def test_sparsevlm_counts_what_leaves(nominal, entering):
    """methods.md 0.1: the same schedule in the Nüwa paper's count."""
    assert plan("sparsevlm", nominal, counting="authors").average(32) == pytest.approx(entering, abs=0.05)


@pytest.mark.parametrize("n_tokens", [20, 100, 576])
def test_recycling_counts_can_be_taken_back(n_tokens):
    for kept in range(n_tokens):
        total = kept + clusters_for(n_tokens - kept)[1]
        back = kept_before_recycling(total, n_tokens)
        assert back >= kept
        assert back + clusters_for(n_tokens - back)[1] == total


@pytest.mark.parametrize(
    ("average", "ladder", "shares"),
    [
        (270, "late", (0.5, 0.25, 0.125)),  # the authors' own
        (192, "late", (0.2552, 0.0651, 0.0166)),
        (192, "early", (0.5606, 0.3142, 0.1762)),
        (128, "early", (0.4211, 0.1773, 0.0747)),
        (64, "early", (0.1927, 0.0371, 0.0072)),
    ],
)
def test_pyramiddrop_counts(average, ladder, shares):
    """methods.md 0.2; shares solved there and here may fall on either side of a whole token."""
    schedule = plan("pyramiddrop", average, ladder=ladder)
    assert [layer for layer, _ in schedule.llm] == {"late": [8, 16, 24], "early": [2, 8, 16]}[ladder]
    for (_, count), share in zip(schedule.llm, shares, strict=True):
        assert abs(count - int(576 * share)) <= 1
    if average == 270:
        assert schedule.llm == ((8, 288), (16, 144), (24, 72))


def test_pyramiddrop_moves_to_earlier_layers_by_itself():
    assert plan("pyramiddrop", 192) == plan("pyramiddrop", 192, ladder="late")
    assert plan("pyramiddrop", 128) == plan("pyramiddrop", 128, ladder="early")


def test_feather_counts():
    """methods.md 0.2: r = .781 for 192 at the authors' layers, where 160 is the least."""
    (first, kept1), (second, kept2) = plan("feather", 192).llm
    assert (first, second) == (8, 16)
    assert kept1 == round(576 * (1 - 0.781) + 64 * 0.781)
    assert kept2 == round(kept1 * (1 - 0.781) ** 2)
    assert plan("feather", 64).llm[0][0] == 2


@pytest.mark.parametrize(("nominal", "kept"), [(64, 68), (128, 132), (192, 196)])
def test_dart_counts(nominal, kept):
    assert plan("dart", nominal, counting="authors") == Schedule(576, ((2, kept),))
    assert plan("dart", nominal) == plan("fastv", nominal)


def test_dart_on_llava_next_counts_all_tiles_together():
    """methods.md 0.3: 320 in all, and the four visual pivots on top."""
    assert plan("dart", 320, 2880, counting="authors") == Schedule(2880, ((2, 324),))


@pytest.mark.parametrize(
    ("name", "average", "options", "message"),
    [
        ("pyramiddrop", 100, {"ladder": "late"}, r"ladder=late needs 144\.\d or more, ladder=early needs 36\.\d"),
        ("pyramiddrop", 30, {}, r"pyramiddrop cannot reach budget.average=30"),
        ("feather", 40, {}, r"with a grid of 64 tokens it needs 48\.\d or more"),
        ("sparsevlm", 40, {}, r"its first layers see all 576 tokens"),
        ("dart", 30, {}, r"the first 2 see all 576 tokens, so that it needs 36\.9 or more"),
        ("prumerge", 64, {"adaptive": True}, r"pruner\.adaptive=true the image decides; use budget=full"),
        ("sparsevlm", 64, {"adaptive": True}, r"pruner\.adaptive=true the image decides; use budget=full"),
        ("pooling", 13, {}, r"12 \(3x4\) or 15 \(3x5\) tokens"),
        ("composed", 30, {"vision": "pooling", "llm": "fastv", "split": 0.0}, r"fastv cannot reach"),
    ],
)
def test_refusals_say_what_is_possible(name, average, options, message):
    with pytest.raises(BudgetError, match=message):
        plan(name, average, **options)


@pytest.mark.parametrize("name", ["dart", "pyramiddrop", "feather", "sparsevlm", "composed", *ONE_SHOT])
@pytest.mark.parametrize(("n_tokens", "layers", "average"), [(576, 32, 100), (256, 16, 64), (64, 6, 20), (400, 28, 98)])
def test_the_average_is_met(name, n_tokens, layers, average):
    if name in ("grid", "downsample") and average == 100:
        average = 99
    spent = plan(name, average, n_tokens, layers).average(layers)
    assert abs(spent - average) <= max(0.5, 0.01 * average)


@pytest.mark.parametrize("split", [0.0, 0.25, 0.5, 1.0])
def test_composed_divides_the_budget(split):
    schedule = plan("composed", 64, vision="divprune", llm="fastv", split=split)
    assert schedule.vision == round(576 * (64 / 576) ** split)
    assert schedule.average(32) == pytest.approx(64, abs=0.5)


def test_composed_hands_its_seed_to_its_parts():
    context = vision_context((8, 8), torch.zeros(1, 64, 2), {})
    kept = [
        nuwa.load_pruner("composed", budget=20, vision="random", seed=seed).prune_vision(context, 20).keep.tolist()
        for seed in (0, 1)
    ]
    assert kept[0] != kept[1]
    assert kept[1] == nuwa.load_pruner("random", seed=1).prune_vision(context, 20).keep.tolist()
    assert nuwa.load_pruner("composed", budget=20, vision="nuwa", seed=5)._inside.seed == 5


GRIDS = ("pooling", "grid", "downsample")


@pytest.mark.parametrize("vision", GRIDS)
@pytest.mark.parametrize("split", [0.5, 1.0])
def test_composed_lets_in_what_a_grid_makes(vision, split):
    """The LLM method does the rest, so that every budget is met."""
    for average in range(40, 300):
        pruner = nuwa.load_pruner("composed", budget=average, vision=vision, llm="fastv", split=split)
        schedule = pruner.schedule(576, 32)
        assert near_squares(schedule.vision) and schedule.average(32) == pytest.approx(average, abs=0.5)
        if vision == "downsample":
            assert pruner.image_grid((24, 24), 32) == pooled_grid(schedule.vision, (24, 24))


def test_composed_leaves_to_a_grid_what_its_budget_is_a_share_of():
    for n_tokens in range(100, 1400, 13):
        pruner = nuwa.load_pruner("composed", budget=Budget(ratio=0.25), vision="pooling", llm="fastv")
        assert pruner.schedule(n_tokens, 28).average(28) == pytest.approx(n_tokens / 4, abs=0.5)


@pytest.mark.parametrize("vision", GRIDS)
def test_composed_keeps_the_grid_that_it_planned(vision):
    """19 of 64 tokens: 35 would enter, and 13 of them at 29, of which there is no grid."""
    for average, entering in ((19, 35), (13, 28)):
        pruner = nuwa.load_pruner("composed", budget=average, vision=vision, llm="fastv")
        family = FAMILIES["llava"]
        with torch.no_grad(), nuwa.prune(family.model(), pruner) as session:
            family.model()(**family.inputs("first", "last"))
        counts = session.report().tokens_per_layer
        assert counts[0] == entering and sum(counts) / len(counts) == pytest.approx(average, abs=0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vision": "fastv"}, r"pruner\.vision must be a method that prunes before the LLM, not 'fastv'"),
        ({"llm": "visionzip"}, r"pruner\.llm must be a method that prunes inside the LLM only"),
        ({"llm": "none"}, r"pruner\.llm must be a method that prunes inside the LLM only"),
        ({"llm": "nuwa"}, r"pruner\.llm must be a method that prunes inside the LLM only"),
        ({"llm": "composed"}, r"pruner\.llm must be a single method"),
        ({"vision": "loudest"}, r"pruner 'loudest' is unknown; choose one of cdpruner,"),
        ({"split": 2.0}, r"pruner\.split must be in \[0, 1\], not 2"),
    ],
)
def test_composed_refuses_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        nuwa.load_pruner("composed", budget=64, **options)


def test_composed_asks_its_vision_method_for_the_count(monkeypatch):
    def refuse(self, n_tokens, layers):
        raise BudgetError(f"not {self.budget.average}")

    monkeypatch.setattr(RandomPruner, "schedule", refuse)
    with pytest.raises(BudgetError, match="not 192"):
        plan("composed", 64, vision="random", llm="fastv")


@pytest.mark.parametrize("name", [name for name in method_names() if name != "none"])
@pytest.mark.parametrize(("n_tokens", "average"), [(576, 64), (576, 192), (2880, 320), (2880, 640)])
def test_no_choice_costs_more_than_five_percent_of_a_prefill(name, n_tokens, average):
    """FLOPs at 7B shapes: the method's own formula, and key projections recomputed at every LLM stage."""
    shape = ModelShape(
        layers=32, hidden=4096, intermediate=11008, kv_heads=32, head_dim=128, vision_hidden=1024, image_tokens=n_tokens
    )
    pruner = nuwa.load_pruner(name, budget=average)
    recomputed = len(pruner.schedule(n_tokens, 32).llm) * 2 * n_tokens * 4096**2
    assert pruner.metric_flops(n_tokens, shape) + recomputed < 0.05 * llm_flops([n_tokens] * 32, shape)
