"""Budgets into counts: the authors' numbers, the average that comes out, refusals that say what is possible."""

import pytest

from nuwa.pruners import FastV, KeepAll, Nuwa, NuwaRelease, Pooling, RandomPruner, VisionZip
from nuwa.pruning.budget import Budget, BudgetError
from nuwa.pruning.flops import ModelShape, llm_flops
from nuwa.pruning.schedules import Schedule

PRUNERS = [FastV, Nuwa, NuwaRelease, Pooling, RandomPruner, VisionZip]
LLAVA_7B = ModelShape(
    layers=32, hidden=4096, intermediate=11008, kv_heads=32, head_dim=128, vision_hidden=1024, image_tokens=576
)


def plan(make, average, n_tokens=576, layers=32, **options):
    return make(budget=Budget(average=average), **options).schedule(n_tokens, layers)


@pytest.mark.parametrize("make", [Nuwa, NuwaRelease])
@pytest.mark.parametrize(("average", "first", "second"), [(64, 112, 16), (128, 224, 32), (192, 336, 48)])
def test_nuwa_counts_of_table_10(make, average, first, second):
    assert plan(make, average) == Schedule(first, ((16, second),))
    assert plan(make, average, layers=16) == Schedule(first, ((8, second),))
    assert plan(make, average).average(32) == average


@pytest.mark.parametrize(("average", "keep"), [(64, 30), (128, 98), (192, 166)])
def test_fastv_counts(average, keep):
    # methods.md 0.2: k = (32 a - 2 * 576) / 30; one of 16 layers is the same share of the depth.
    assert plan(FastV, average) == Schedule(576, ((2, keep),))
    assert plan(FastV, average, layers=16) == Schedule(576, ((1, keep),))


def test_fastv_layer():
    assert plan(FastV, 192, layer=0.09375) == Schedule(576, ((3, 152),))


@pytest.mark.parametrize("make", [VisionZip, RandomPruner, Pooling])
@pytest.mark.parametrize("average", [64, 128, 192])
def test_one_shot_counts(make, average):
    assert plan(make, average) == Schedule(average)


@pytest.mark.parametrize("make", PRUNERS)
@pytest.mark.parametrize("layers", [16, 28, 32])
@pytest.mark.parametrize(("n_tokens", "average"), [(576, 64), (576, 99), (576, 200), (391, 98), (64, 20), (2304, 640)])
def test_the_average_is_met(make, layers, n_tokens, average):
    schedule = plan(make, average, n_tokens, layers)
    counts = schedule.per_layer(layers)
    assert len(counts) == layers
    assert counts == sorted(counts, reverse=True)
    assert counts[0] <= n_tokens
    assert min(counts) >= 1
    assert abs(sum(counts) / layers - average) <= max(0.5, 0.01 * average)


@pytest.mark.parametrize("make", [FastV, Nuwa, RandomPruner, VisionZip])
def test_full_budget_keeps_all(make):
    assert make().schedule(576, 32) == Schedule(576)


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
def test_nuwa_ratio_budgets_are_met(ratio):
    # Qwen2.5-VL: 28 layers. Stage 1 cannot grow past the image, so stage 2 keeps more than a seventh at 75 %.
    schedule = Nuwa(budget=Budget(ratio=ratio)).schedule(400, 28)
    assert schedule.average(28) == pytest.approx(400 * ratio, rel=0.01)
    assert schedule.vision <= 400


def test_nuwa_stage2_options():
    assert plan(Nuwa, 64, stage2_ratio=1.0) == Schedule(64)
    assert plan(Nuwa, 60, stage2_layer=0.25, stage2_ratio=0.2) == Schedule(150, ((8, 30),))
    # 152.5 tokens in stage 1: stage 2 makes up for the half, 30.7 -> 31.
    assert plan(Nuwa, 61, stage2_layer=0.25, stage2_ratio=0.2) == Schedule(152, ((8, 31),))


def test_nuwa_release_takes_a_tenth_where_the_code_lists_nothing():
    assert plan(NuwaRelease, 100) == Schedule(182, ((16, 18),))


@pytest.mark.parametrize("layer", [0.25, 0.75])
def test_nuwa_release_lists_counts_for_stage_2_at_half_depth_only(layer):
    schedule = plan(NuwaRelease, 64, stage2_layer=layer)
    assert schedule.llm[0][0] == 32 * layer and schedule.vision != 112
    assert schedule.average(32) == pytest.approx(64, abs=0.64)


@pytest.mark.parametrize(
    ("make", "average", "message"),
    [
        (FastV, 30, r"fastv cannot reach budget.average=30 .*the first 2 see all 576 tokens.* 36\.9 or more"),
        (NuwaRelease, 400, r"nuwa_release cannot reach budget.average=400 .*it reaches 5\.5 to 316\.5 of 576"),
        (NuwaRelease, 2, r"nuwa_release cannot reach budget.average=2 .*it reaches 5\.5 to 316\.5"),
        (Nuwa, 0.3, r"nuwa cannot reach budget.average=0\.3 .*one token or more in every layer"),
        (Pooling, 13, r"pooling cannot reach budget.average=13 .*12 \(3x4\) or 15 \(3x5\) tokens"),
        (RandomPruner, 0.4, r"random cannot reach budget.average=0\.4"),
        (VisionZip, 0.4, r"visionzip cannot reach budget.average=0\.4"),
    ],
)
def test_refusals_say_what_is_possible(make, average, message):
    with pytest.raises(BudgetError, match=message):
        plan(make, average)


@pytest.mark.parametrize("make", PRUNERS)
def test_more_than_the_image_is_refused(make):
    with pytest.raises(BudgetError, match=r"budget\.average=600 is more than the 576 visual tokens"):
        plan(make, 600)


@pytest.mark.parametrize("make", [FastV, Nuwa, NuwaRelease])
def test_llm_stages_need_two_layers(make):
    with pytest.raises(BudgetError, match="2 layers or more"):
        plan(make, 64, layers=1)


def test_none_takes_no_budget():
    assert KeepAll().schedule(576, 32) == Schedule(576)
    with pytest.raises(BudgetError, match="use budget=full"):
        plan(KeepAll, 64)


@pytest.mark.parametrize(
    ("make", "megaflops"), [(FastV, 4.7186), (VisionZip, 8.9129), (Nuwa, 17.5636), (NuwaRelease, 17.5636)]
)
def test_table_4_metric_overhead(make, megaflops):
    pruner = make(budget=Budget(average=64))
    assert pruner.metric_flops(576, LLAVA_7B) / 1e6 == pytest.approx(megaflops, abs=5e-5)


@pytest.mark.parametrize(
    ("make", "teraflops"), [(Nuwa, 0.6476), (NuwaRelease, 0.6476), (VisionZip, 0.6464), (KeepAll, 5.972)]
)
def test_table_4_teraflops(make, teraflops):
    pruner = make() if make is KeepAll else make(budget=Budget(average=64))
    flops = llm_flops(pruner.schedule(576, 32).per_layer(32), LLAVA_7B)
    assert flops / 1e12 == pytest.approx(teraflops, abs=5e-4 * teraflops)


@pytest.mark.parametrize("make", [KeepAll, RandomPruner, Pooling])
def test_free_choices_cost_nothing(make):
    assert make().metric_flops(576, LLAVA_7B) == 0
