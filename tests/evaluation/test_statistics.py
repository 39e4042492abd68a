"""Errors and retention against what is known by hand."""

import numpy as np
import pytest

from nuwa.benchmarks.local import Local
from nuwa.benchmarks.mmbench import MMBench
from nuwa.benchmarks.mme import MME
from nuwa.benchmarks.pope import POPE
from nuwa.evaluation import statistics
from nuwa.evaluation.statistics import retention, share_intervals, standard_errors, wilson


def rows(values, task="vqa"):
    return [{"id": f"{task}{i}", "task": task, "scores": {f"{task}/m": float(v)}} for i, v in enumerate(values)]


MEANS = Local.unloaded({})
"""A benchmark whose numbers are the means of its scores."""


def test_standard_error_of_a_share():
    data = rows([1] * 30 + [0] * 70) + rows([1, 0] * 20, "vg")
    errors = standard_errors(data, MEANS)
    assert errors["vqa/m"] == pytest.approx((0.3 * 0.7 / 100) ** 0.5, rel=0.1)
    assert errors["vg/m"] == pytest.approx((0.25 / 40) ** 0.5, rel=0.1)


def test_wilson_against_published_values():
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-3)
    assert wilson(10, 10) == pytest.approx((0.7225, 1.0), abs=1e-3)
    assert share_intervals(rows([1] * 10))["vqa/m"] == wilson(10, 10)
    assert share_intervals(rows([0.5])) == {}


def together(values, size):
    """Rows of ``values``, ``size`` of them scored together."""
    return [row | {"meta": {"group": number // size}} for number, row in enumerate(rows(values))]


def test_alike_samples_of_a_group_count_once():
    """Four equal answers about each of 25 pictures say what 25 answers say."""
    groups = np.random.default_rng(1).random(25) < 0.6
    alike = share_intervals(together(np.repeat(groups, 4), 4))["vqa/m"]
    assert alike == pytest.approx(wilson(groups.sum(), 25), abs=0.01)
    assert share_intervals(together([1] * 100, 4))["vqa/m"] == wilson(25, 25)


def test_the_interval_of_groups_covers_the_truth():
    """Pictures are easy or hard: a true share of 0.5, of which 95 % of the intervals must know."""
    rng, hits, naive = np.random.default_rng(2), 0, 0
    for _ in range(300):
        easy = rng.choice([0.1, 0.9], size=60)
        values = (rng.random((60, 8)) < easy[:, None]).flatten()
        low, high = share_intervals(together(values, 8))["vqa/m"]
        hits += low <= 0.5 <= high
        low, high = wilson(values.sum(), values.size)
        naive += low <= 0.5 <= high
    assert 0.92 <= hits / 300 <= 0.98 and naive / 300 < 0.75


def test_independent_samples_in_groups_lose_little():
    values = np.random.default_rng(3).random(4000) < 0.3
    low, high = share_intervals(together(values, 4))["vqa/m"]
    assert high - low == pytest.approx(np.diff(wilson(values.sum(), 4000))[0], rel=0.1)


def test_retention_is_paired():
    full, pruned = rows([1, 1, 0, 1] * 25), rows([1, 0, 0, 1] * 25)
    found = retention(pruned, full, MEANS)["vqa/m"]
    assert found["value"] == pytest.approx(2 / 3)
    assert found["low"] < 2 / 3 < found["high"]
    same = retention(full, full, MEANS)["vqa/m"]
    assert same == {"value": 1.0, "low": 1.0, "high": 1.0}  # an unpaired interval would have a width


def score_bound(n, wrong_way):
    """Where Tango's score statistic of a paired difference d reaches 1.96, if none of ``n`` pairs differs: bisection.

    Such a difference is likeliest where the pairs differ one way only, each with probability d: variance n d (1 - d).
    """
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        far = n * middle > 1.96 * (n * middle * (1 - middle)) ** 0.5
        low, high = (low, middle) if far else (middle, high)
    return wrong_way * low


@pytest.mark.parametrize("n", [12, 60, 2000])
def test_runs_that_never_differ_may_differ_elsewhere(n):
    """All answers as without pruning, half of them right: the bound of a difference, over the unpruned half."""
    full, pruned = rows([1, 0] * (n // 2)), [row | {"kept": [[[0, 9]]]} for row in rows([1, 0] * (n // 2))]
    found = retention(pruned, full, MEANS)["vqa/m"]
    assert found["value"] == 1.0
    assert found["low"] == pytest.approx(max(0, 1 + score_bound(n, -1) / 0.5), abs=1e-3)
    assert found["high"] == pytest.approx(1 + min(score_bound(n, 1), 0.5) / 0.5, abs=1e-3)
    lost = (1 - found["low"]) * 0.5
    assert (1 - lost) ** n < 0.05  # the chance that a larger loss shows in none of the pairs


def test_nothing_right_may_be_little_right():
    full = rows([1, 1, 1, 0] * 15)
    found = retention(rows([0] * 60), full, MEANS)["vqa/m"]
    assert found["value"] == found["low"] == 0.0
    assert found["high"] == pytest.approx(wilson(0, 60)[1] / 0.75, abs=1e-3)


def test_all_right_cannot_be_more():
    full, pruned = rows([1] * 30), [row | {"prediction": "other words"} for row in rows([1] * 30)]
    assert retention(pruned, full, MEANS)["vqa/m"]["high"] == 1.0
    assert retention(pruned, full, MEANS)["vqa/m"]["low"] == pytest.approx(1 - wilson(0, 30)[1], abs=1e-3)


def test_only_the_groups_behind_a_number_bound_it():
    """F1 of one category of twenty answers, and of all forty; a picture's two questions count once."""
    truth = [{"answer": ("yes", "no")[i % 2], "category": "ab"[i < 20]} for i in range(40)]
    full = [
        {"id": str(i), "task": "pope", "target": doc, "prediction": doc["answer"], "scores": {"pope/accuracy": 1.0}}
        for i, doc in enumerate(truth)
    ]
    pruned = [row | {"kept": [[[0, 9]]]} for row in full]
    found = retention(pruned, full, POPE.unloaded({"yes_ratio_of": "prediction"}))
    assert found["pope/f1_score/a"]["low"] == pytest.approx(1 - wilson(0, 20)[1], abs=1e-3)
    assert found["pope/f1_score"]["low"] == pytest.approx(1 - wilson(0, 40)[1], abs=1e-3)
    grouped = retention(together([1] * 40, 2), [row | {"kept": []} for row in together([1] * 40, 2)], MEANS)
    assert grouped["vqa/m"]["low"] == pytest.approx(1 - wilson(0, 20)[1], abs=1e-3)


def test_retention_uses_common_samples_and_skips_zero_baselines():
    """Of the unpruned run's four samples only the two that the other answered count: 1/2 over 1/2, not over 3/4."""
    assert retention(rows([1, 0]), rows([1, 0, 1, 1]), MEANS)["vqa/m"]["value"] == 1.0
    assert retention(rows([1, 0, 1, 1]), rows([1, 0]), MEANS)["vqa/m"]["value"] == 1.0
    assert retention(rows([1, 1]), rows([0, 0]), MEANS) == {}
    assert retention(rows([1]), [], MEANS) == {}


def test_samples_of_a_group_are_drawn_together():
    """Pairs that always differ: their mean cannot vary if both are drawn, and does if they are drawn one by one."""
    pairs = [
        {"id": str(i), "task": "mme", "scores": {"mme/m": float(i % 2)}, "meta": {"group": str(i // 2)}}
        for i in range(40)
    ]
    assert standard_errors(pairs, MEANS) == {"mme/m": 0.0}
    alone = [{key: value for key, value in row.items() if key != "meta"} for row in pairs]
    assert standard_errors(alone, MEANS)["mme/m"] == pytest.approx(0.5 / 40**0.5, rel=0.2)


def drawn_rows(kind, number, rng):
    """A journal row of a benchmark that scores samples together or counts more than scores."""
    if kind is POPE:
        doc, said = {"answer": ("yes", "no")[number % 2], "category": "ab"[number % 3 == 0]}, ("yes", "no", "?")
        return {"target": doc, "prediction": str(rng.choice(said)), "scores": {"pope/accuracy": float(rng.integers(2))}}
    if kind is MMBench:
        doc = {"index": number // 2 + number % 2 * 1_000_000, "category": "ab"[number % 4 < 2], "L2-category": "l"}
        return {"target": doc, "scores": {"mmbench/hit": float(rng.integers(2))}, "meta": {"group": str(number // 2)}}
    scores = {"x": float(rng.random())} | ({"y": float(rng.integers(2))} if number % 4 else {})
    return {"scores": scores, "meta": {"group": str(number // 3 if number < 30 else number)}}


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (Local, {}),
        (POPE, {"yes_ratio_of": "prediction"}),
        (MMBench, {"circular": True}),
        (MMBench, {"circular": False}),
    ],
)
def test_a_benchmarks_numbers_need_no_loop_over_rows(kind, options, monkeypatch):
    """The same as summing up the drawn rows themselves."""
    monkeypatch.setattr(statistics, "RESAMPLES", 50)
    benchmark, rng = kind.unloaded(options), np.random.default_rng(0)
    runs = [
        [
            {"id": str(i), "task": "ab"[i % 7 == 0] if kind is Local else "a", **drawn_rows(kind, i, rng)}
            for i in range(60)
        ]
        for _ in range(2)
    ]
    fast = standard_errors(runs[0], benchmark), retention(*runs, benchmark)

    def through_rows(tasks, benchmark):
        groups = [group for task in tasks for group in task]
        return lambda chosen: benchmark.metrics([row for place in chosen for row in groups[place]])

    monkeypatch.setattr(statistics, "_drawn", through_rows)
    assert fast[0] == pytest.approx(standard_errors(runs[0], benchmark), rel=1e-9)
    slow = retention(*runs, benchmark)
    assert slow and fast[1].keys() == slow.keys()
    for name in slow:
        assert fast[1][name] == pytest.approx(slow[name], rel=1e-9)


def test_pictures_of_mme_are_drawn_whole():
    """Every picture is half right, so no draw differs; a picture drawn twice counts twice."""
    doc = {"category": "count", "answer": "Yes"}
    rows = [
        {"id": str(i), "task": "mme", "target": doc | {"question_id": str(i // 2)}, "prediction": ("yes", "no")[i % 2],
         "scores": {"mme/accuracy": 1.0 - i % 2}, "meta": {"group": str(i // 2)}}
        for i in range(20)
    ]  # fmt: skip
    mme = MME.unloaded({})
    assert mme.metrics(rows)["mme/count"] == 50.0 and set(standard_errors(rows, mme).values()) == {0.0}
    rows[1]["prediction"] = "yes"  # one picture of ten has 200 points
    assert standard_errors(rows, mme)["mme/count"] == pytest.approx(150 * (0.1 * 0.9 / 10) ** 0.5, rel=0.1)


def test_groups_are_drawn_whole():
    """Against a loop over the groups."""
    groups = [[0, 1], [2], [], [3, 4, 5]]
    for places in ([0, 0, 0], [3, 2, 0], [1, 3, 2], [2]):
        found = statistics._members(np.array([2, 1, 0, 3]), np.array(places))
        assert found.tolist() == [i for place in places for i in groups[place]]
