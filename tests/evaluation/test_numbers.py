"""Numbers that a result prints do not change from one version to the next: those of fixed rows, to the digit."""

import json
from pathlib import Path

import numpy as np
import pytest

from nuwa.benchmarks.local import Local
from nuwa.evaluation.pairs import Benchmarked, mean_retention, paired_tests, permutation
from nuwa.evaluation.statistics import (
    _grouped,
    _resamples,
    effective_count,
    interval,
    retention,
    share_intervals,
    standard_errors,
    wilson,
)

NUMBERS = Path(__file__).with_name("numbers.json")
MEANS = Local.unloaded({})


def rows(seed, count=40, groups=False):
    """Rows of two tasks; ``vg`` has a metric that not every sample has."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        task = "vg" if number % 3 else "vqa"
        scores = {f"{task}/m": float(rng.random() < 0.7)} | ({f"{task}/iou": float(rng.random())} if number % 2 else {})
        meta = {"meta": {"group": str(number // 4)}} if groups and number < 20 else {}
        made.append({"id": f"s{number}", "task": task, "scores": scores, "target": "t", **meta})
    return made


def test_the_digits_of_a_result():
    ours, full = rows(1, groups=True), rows(2, groups=True)
    found = {
        "errors": standard_errors(ours, MEANS),
        "retention": retention(ours, full, MEANS),
        "intervals": share_intervals(ours),
        "mean": mean_retention([Benchmarked(ours, full, MEANS, "vqa/m"), Benchmarked(ours, full, MEANS, "vg/m")]),
        "tests": [(test.metric, test.n, test.p, test.test) for test in paired_tests(ours, full)],
        "alone": [(test.metric, test.n, test.p, test.test) for test in paired_tests(rows(1), rows(2))],
        "permutation": [permutation([0.3, -0.1, 0.2, 0.5]), permutation([0.3, -0.1, 0.2, 0.5], seed=1)],
    }
    assert rounded(found) == json.loads(NUMBERS.read_text())


def rounded(value):
    """Floats to nine digits, and tuples as JSON has them."""
    if isinstance(value, dict):
        return {name: rounded(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(part) for part in value]
    return float(f"{value:.9g}") if isinstance(value, float) else value


def test_wilson_by_hand():
    """Share 0.5 of 4: the centre stays, the half width is 1.96 / (1 + 1.96²/4) · sqrt(0.25/4 + 1.96²/64)."""
    half = 1.96 / (1 + 0.9604) * (0.0625 + 3.8416 / 64) ** 0.5
    assert wilson(2, 4) == pytest.approx((0.5 - half, 0.5 + half))
    assert wilson(0, 4)[0] == 0.0 and wilson(4, 4)[1] == 1.0 and wilson(0, 0) == (0.0, 1.0)
    low, high = wilson(1, 4)
    assert (low + high) / 2 == pytest.approx((0.25 + 0.9604 / 2) / 1.9604)


def test_groups_by_hand():
    """Two pairs right, one wrong: deviations 2/3, 2/3, -4/3 from a share of 2/3, with 3/2 for their number."""
    between = (2 * (2 / 3) ** 2 + (4 / 3) ** 2) * 3 / 2
    assert effective_count([[1, 1], [1, 1], [0, 0]]) == pytest.approx(6 / (between / (6 * 2 / 3 * 1 / 3)))
    assert effective_count([[1, 0], [1, 0]]) == 4  # no group differs: as many as there are, and no more
    assert effective_count([[1, 0]]) == 1 and effective_count([[0, 0], [0, 0, 0]]) == 2
    assert effective_count([[1], [0]]) == 2


def test_an_interval_leaves_a_fortieth_on_each_side():
    assert interval(range(1001)) == {"low": 25.0, "high": 975.0}


def test_tasks_are_drawn_apart():
    tasks = _grouped([{"id": str(i), "task": task} for i, task in enumerate("aaabbbb")])
    assert [len(groups) for groups in tasks] == [3, 4]
    draws = np.array([*_resamples(tasks, 0)])
    assert draws.shape == (500, 7)
    assert set(draws[:, :3].flat) == {0, 1, 2} and set(draws[:, 3:].flat) == {3, 4, 5, 6}


@pytest.mark.parametrize("mark", [0, 2])
def test_some_grouped_samples_make_a_permutation_test(mark):
    runs = [[{"id": str(i), "task": "t", "scores": {"t/m": value}} for i in range(4)] for value in (1.0, 0.0)]
    for run in runs:
        run[mark]["meta"] = {"group": "alone"}
    assert [test.test for test in paired_tests(*runs)] == ["permutation"]
    assert [test.test for test in paired_tests(*([row | {"meta": {}} for row in run] for run in runs))] == ["McNemar"]
