"""Whether one run is better than another: tests over the samples that both answered; and the paper's mean retention.

Samples are compared in pairs, because the same questions are hard for both runs. Samples that are scored together
(``meta["group"]``) stay together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np

from nuwa.benchmarks.base import Benchmark
from nuwa.evaluation.journal import Row
from nuwa.evaluation.statistics import answered_by_both, interval, resampled_ratios

PERMUTATIONS, AT_ONCE = 10_000, 100


@dataclass(frozen=True)
class Comparison:
    """Mean of one metric in two runs over ``n`` samples, and the p-value of their difference."""

    metric: str
    n: int
    first: float
    second: float
    p: float
    test: str


@dataclass(frozen=True)
class Benchmarked:
    """One benchmark's part of a mean: rows of a run and of the unpruned one, and the metric that counts."""

    rows: Sequence[Row]
    unpruned: Sequence[Row]
    benchmark: Benchmark
    metric: str


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided p-value of McNemar's test, from the samples that only one of two runs has right.

    >>> mcnemar(1, 8)
    0.0390625
    """
    total, fewer = only_first + only_second, min(only_first, only_second)
    tail = sum(comb(total, k) for k in range(fewer + 1))
    return min(1.0, 2 * tail / 2**total)


def permutation(differences: Sequence[float], seed: int = 0) -> float:
    """Two-sided p-value: how often differences with random signs have a mean as far from 0 as these.

    Estimated from `PERMUTATIONS` draws; the data count as one more.
    """
    values = np.asarray(differences, dtype=float)
    seen = abs(values.sum()) - 1e-9 * np.abs(values).sum()  # sums in another order differ in their last digits
    rng = np.random.default_rng(seed)
    hits = 0
    for _ in range(PERMUTATIONS // AT_ONCE):
        signs = rng.choice((-1.0, 1.0), (AT_ONCE, len(values)))
        hits += int((np.abs(signs @ values) >= seen).sum())
    return (1 + hits) / (1 + PERMUTATIONS)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values of many tests, corrected so that the chance of any false finding among them stays (Holm 1979).

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    corrected, largest = [0.0] * len(p_values), 0.0
    for place, number in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[number]))
        corrected[number] = largest
    return corrected


def same_samples(rows: Sequence[Row], others: Sequence[Row]) -> list[tuple[Row, Row]]:
    """The rows of two runs on the samples that both answered (`answered_by_both`), in pairs.

    Raises:
        ValueError: a sample's target differs, so that the runs are of two data sets. Prompts may differ.
    """
    pairs = list(zip(*answered_by_both(rows, others), strict=True))
    for one, other in pairs:
        if one.get("target") != other.get("target"):
            targets = f"{one.get('target')!r} in the first run, {other.get('target')!r} in the second"
            raise ValueError(f"two data sets: {one['id']} has the target {targets}")
    return pairs


def paired_tests(
    rows: Sequence[Row], others: Sequence[Row], seed: int = 0, headlines: bool = False
) -> list[Comparison]:
    """Every metric that single samples have, over the samples for which both runs have it.

    ``headlines`` takes the first of each task only. McNemar's test where samples are right or wrong and scored alone,
    otherwise a permutation test over groups.

    Raises:
        ValueError: as `same_samples`.
    """
    pairs = same_samples(rows, others)
    metrics: dict[str, list[tuple[Row, Row]]] = {}
    for one, other in pairs:
        for name in one["scores"]:
            if name in other["scores"]:
                metrics.setdefault(name, []).append((one, other))
    if headlines:
        first: dict[str, str] = {}
        for name in metrics:
            first.setdefault(name.split("/")[0], name)
        tasks = {one["task"] for one, _ in pairs}
        metrics = {name: metrics[name] for task, name in first.items() if task in tasks}
    return [_compare_metric(name, shared, seed) for name, shared in metrics.items()]


def _compare_metric(name: str, pairs: Sequence[tuple[Row, Row]], seed: int) -> Comparison:
    values = np.array([[row["scores"][name] for row in pair] for pair in pairs])
    grouped = any("group" in row.get("meta", {}) for row, _ in pairs)
    if not grouped and set(np.unique(values)) <= {0.0, 1.0}:
        lead = values[:, 0] - values[:, 1]
        p, test = mcnemar(int((lead > 0).sum()), int((lead < 0).sum())), "McNemar"
    else:
        sums: dict[str, float] = {}
        for (row, _), (one, other) in zip(pairs, values, strict=True):
            group = row.get("meta", {}).get("group", row["id"])
            sums[group] = sums.get(group, 0.0) + one - other
        p, test = permutation(list(sums.values()), seed), "permutation"
    first, second = values.mean(axis=0)
    return Comparison(name, len(pairs), float(first), float(second), p, test)


def rows_behind(metric: str, rows: Sequence[Row], benchmark: Benchmark) -> list[Row]:
    """The rows that a metric is made of: those of its task, or of a part of it (``task/metric/part``)."""
    task, *parts = metric.split("/")
    own = [row for row in rows if row["task"] == task]
    return [row for row in own if metric in benchmark.metrics([row])] if len(parts) > 1 else own


def mean_retention(parts: Sequence[Benchmarked], seed: int = 0) -> dict[str, float]:
    """Mean over benchmarks of headline / unpruned headline, as the paper prints it, with a 95 % interval.

    Every benchmark's samples are drawn again on their own, its two runs together.

    Raises:
        ValueError: a benchmark has no such metric, or it is 0 without pruning.
    """
    found = []
    for number, part in enumerate(parts):
        ratios = resampled_ratios(part.rows, part.unpruned, part.benchmark, seed + number)
        if part.metric not in ratios:
            raise ValueError(f"{part.metric} has no retention: it is missing, or 0 without pruning")
        found.append(ratios[part.metric])
    values, draws = zip(*found, strict=True)
    length = min(map(len, draws))
    means = np.mean([ratios[:length] for ratios in draws], axis=0)
    return {"value": float(np.mean(values)), **interval(means)}
