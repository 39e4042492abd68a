"""Errors and retention against what is known by hand."""

import numpy as np
import pytest

from nuwa.benchmarks.local import Local
from nuwa.evaluation import statistics
from nuwa.evaluation.statistics import retention, share_intervals, standard_errors, wilson


def rows(values, task="vqa"):
    return [{"id": f"{task}{i}", "task": task, "scores": {f"{task}/m": float(v)}} for i, v in enumerate(values)]


def mean(chosen):
    columns: dict[str, list[float]] = {}
    for row in chosen:
        for name, value in row["scores"].items():
            columns.setdefault(name, []).append(value)
    return {name: float(np.mean(column)) for name, column in columns.items()}


def test_standard_error_of_a_share():
    data = rows([1] * 30 + [0] * 70) + rows([1, 0] * 20, "vg")
    errors = standard_errors(data, mean)
    assert errors["vqa/m"] == pytest.approx((0.3 * 0.7 / 100) ** 0.5, rel=0.1)
    assert errors["vg/m"] == pytest.approx((0.25 / 40) ** 0.5, rel=0.1)


def test_wilson_against_published_values():
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-3)
    assert wilson(10, 10) == pytest.approx((0.7225, 1.0), abs=1e-3)
    assert share_intervals(rows([1] * 10))["vqa/m"] == wilson(10, 10)
    assert share_intervals(rows([0.5])) == {}


def test_retention_is_paired():
    full, pruned = rows([1, 1, 0, 1] * 25), rows([1, 0, 0, 1] * 25)
    found = retention(pruned, full, mean)["vqa/m"]
    assert found["value"] == pytest.approx(2 / 3)
    assert found["low"] < 2 / 3 < found["high"]
    same = retention(full, full, mean)["vqa/m"]
    assert same == {"value": 1.0, "low": 1.0, "high": 1.0}  # an unpaired interval would have a width


def test_retention_uses_common_samples_and_skips_zero_baselines():
    assert retention(rows([1, 1]), rows([1]), mean)["vqa/m"]["value"] == 1.0
    assert retention(rows([1, 1]), rows([0, 0]), mean) == {}
    assert retention(rows([1]), [], mean) == {}


def test_samples_of_a_group_are_drawn_together():
    """Pairs that always differ: their mean cannot vary if both are drawn, and does if they are drawn one by one."""
    pairs = [
        {"id": str(i), "task": "mme", "scores": {"mme/m": float(i % 2)}, "meta": {"group": str(i // 2)}}
        for i in range(40)
    ]
    assert standard_errors(pairs, mean) == {"mme/m": 0.0}
    alone = [{key: value for key, value in row.items() if key != "meta"} for row in pairs]
    assert standard_errors(alone, mean)["mme/m"] == pytest.approx(0.5 / 40**0.5, rel=0.2)


def test_means_need_no_loop_over_rows(monkeypatch):
    """The same draws as through the rows themselves, where some rows lack a metric and groups differ in size."""
    monkeypatch.setattr(statistics, "RESAMPLES", 50)
    rng = np.random.default_rng(0)
    data = [
        {
            "id": str(i), "task": "ab"[i % 3 == 0], "meta": {"group": str(i // 3 if i < 30 else i)},
            "scores": {"x": float(rng.random()), **({"y": float(rng.integers(2))} if i % 4 else {})},
        }
        for i in range(60)
    ]  # fmt: skip
    other = [row | {"scores": {name: value / 2 for name, value in row["scores"].items()}} for row in data]
    local = object.__new__(Local)
    for found, slow in (
        (standard_errors(data, local.metrics), standard_errors(data, mean)),
        (retention(other, data, local.metrics)["y"], retention(other, data, mean)["y"]),
    ):
        assert found == pytest.approx(slow, rel=1e-9)


def test_groups_are_drawn_whole():
    """Against a loop over the groups."""
    groups = [[0, 5], [1], [2, 3, 4]]
    flat, sizes = np.array([0, 5, 1, 2, 3, 4]), np.array([2, 1, 3])
    for places in ([0, 0, 0], [2, 1, 0], [1, 2, 2]):
        assert statistics._members(flat, sizes, np.array(places)).tolist() == [i for p in places for i in groups[p]]
