"""Budgets, averages and costs against the Nüwa paper's tables and hand-counted cases."""

import numpy as np
import pytest

from nuwa.pruners import KeepAll
from nuwa.pruning.budget import Budget, BudgetError, average_entering, average_leaving
from nuwa.pruning.flops import ModelShape, kv_cache_bytes, llm_flops
from nuwa.pruning.schedules import Schedule, fit_schedule, layer_at, share_out, two_stages

LLAVA_7B = ModelShape(
    layers=32, hidden=4096, intermediate=11008, kv_heads=32, head_dim=128, vision_hidden=1024, image_tokens=576
)


@pytest.mark.parametrize(
    ("schedule", "teraflops"),
    [
        (Schedule(576), 5.972),
        (Schedule(112, ((16, 16),)), 0.6476),
        (Schedule(64), 0.6464),
    ],
)
def test_table_4_teraflops(schedule, teraflops):
    # The table prints three to four digits.
    assert llm_flops(schedule.per_layer(32), LLAVA_7B) / 1e12 == pytest.approx(teraflops, abs=5e-4 * teraflops)


def test_counts_per_layer():
    schedule = Schedule(10, ((1, 6), (3, 2)))
    assert schedule.per_layer(5) == [10, 6, 6, 2, 2]
    assert schedule.average(5) == 26 / 5


def test_entering_and_leaving():
    # methods.md 0.1: SparseVLM "64" with recycling keeps 576, 82, 32, 18 tokens from layers 0, 3, 7, 16 on.
    counts = [576] * 3 + [82] * 4 + [32] * 9 + [18] * 16
    assert average_entering(counts) == pytest.approx(82.25)
    assert average_leaving(counts) == pytest.approx(64.81, abs=0.01)
    assert average_leaving([4, 4, 1]) == 2  # what enters the last layer leaves it


@pytest.mark.parametrize(
    ("total", "sizes", "shares"),
    [
        (5, [10, 20, 5], [1, 3, 1]),
        (1, [4, 4], [1, 0]),
        (7, [576, 1728], [2, 5]),
        (0, [3, 2], [0, 0]),
        (5, [3, 2], [3, 2]),
    ],
)
def test_odd_tokens_go_to_the_largest_remainders(total, sizes, shares):
    """5 of 35 are 1.43, 2.86 and 0.71."""
    assert share_out(total, sizes) == shares


@pytest.mark.parametrize(("target", "count"), [(22, 20), (27, 30), (20, 20), (12, 20), (55, 50)])
def test_fitted_schedules_are_the_nearest(target, count):
    """Of counts in steps of ten from 20 on: also the one below, if that is nearer."""
    assert fit_schedule(lambda x: Schedule(20 + 10 * int(3.999 * x)), target, 8) == Schedule(count)


def test_two_stages_keep_one_token_or_more():
    assert two_stages(0.1, 576, 32, at=16, ratio=1 / 7) == Schedule(1)
    assert two_stages(1, 576, 32, at=16, ratio=1 / 7) == Schedule(2, ((16, 1),))


def test_kv_cache_bytes():
    # LLaVA-1.5-7B in fp16: 0.5 MiB per token over 32 layers.
    assert kv_cache_bytes([1] * 32, LLAVA_7B, 2) == 2**19


@pytest.mark.parametrize(("depth", "layers", "layer"), [(0.5, 32, 16), (0.5, 16, 8), (0.5, 28, 14), (1 / 16, 32, 2)])
def test_layer_at(depth, layers, layer):
    assert layer_at(depth, layers) == layer


def test_layer_at_halves_go_up_and_stay_inside():
    assert [layer_at(0.5, layers) for layers in (3, 5, 13, 15)] == [2, 3, 7, 8]
    assert layer_at(0.01, 16) == 1
    assert layer_at(0.99, 16) == 15


def test_layer_at_needs_two_layers():
    with pytest.raises(BudgetError, match="2 layers or more, this LLM has 1"):
        layer_at(0.5, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"average": 0}, r"budget\.average must be positive, not 0"),
        ({"average": -3}, r"budget\.average must be positive, not -3"),
        ({"ratio": 0}, r"budget\.ratio must be in \(0, 1\], not 0"),
        ({"ratio": 1.5}, r"budget\.ratio must be in \(0, 1\], not 1\.5"),
        ({"average": float("nan")}, r"budget\.average must be a finite number, not nan"),
        ({"average": "64"}, r"budget\.average must be a finite number, not '64'"),
        ({"ratio": True}, r"budget\.ratio must be a finite number, not True"),
        ({"average": 64, "ratio": 0.5}, r"budget\.average and budget\.ratio exclude each other"),
    ],
)
def test_impossible_budgets_name_the_key(options, message):
    with pytest.raises(BudgetError, match=message):
        Budget(**options)


def test_budget_in_tokens():
    assert Budget().full
    assert Budget().tokens(576) == 576
    assert Budget(average=64).tokens(576) == 64
    assert Budget(ratio=0.25).tokens(576) == 144
    assert repr(Budget(average=np.int64(64))) == repr(Budget(average=64))
    assert type(Budget(ratio=np.float64(0.25)).ratio) is float
    with pytest.raises(BudgetError, match=r"budget\.average=577 is more than the 576 visual tokens"):
        Budget(average=577).tokens(576)


def test_reaching_a_budget_has_a_tolerance():
    reached = KeepAll().reached
    assert reached(Schedule(64), 64.4, 8, "") == Schedule(64)
    assert reached(Schedule(202), 200, 8, "") == Schedule(202)
    with pytest.raises(BudgetError, match=r"pruner none cannot reach budget\.average=62 on 8 layers; it keeps 64"):
        reached(Schedule(64), 62, 8, "it keeps 64")
    with pytest.raises(BudgetError):
        reached(Schedule(1, ((4, 0),)), 0.5, 8, "")
