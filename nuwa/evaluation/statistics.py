"""How sure a number is: bootstrap over samples, for any metric that a benchmark can aggregate from rows.

Samples are drawn again within their task, so that every resample holds as many of each task as the data does. Samples
that are scored together (``meta["group"]``: the questions to one picture, the rotations of one question) are drawn
together.
A retention compares two runs on the same samples, so both are resampled together (paired bootstrap).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuwa.benchmarks.base import takes_means

Row = dict[str, Any]
Aggregate = Callable[[Sequence[Row]], dict[str, float]]
Indices = NDArray[np.int64]
RESAMPLES = 500


def wilson(successes: float, total: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's interval of a share; unlike the bootstrap it has a width when every sample agrees."""
    if total == 0:
        return 0.0, 1.0
    share, spread = successes / total, z * z / total
    centre = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * sqrt(share * (1 - share) / total + spread / (4 * total))
    return max(0.0, centre - half), min(1.0, centre + half)


def share_intervals(rows: Sequence[Row]) -> dict[str, tuple[float, float]]:
    """Wilson's 95 % interval of every metric that is right or wrong (0 or 1) on each sample."""
    values: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row["scores"].items():
            values.setdefault(name, []).append(value)
    return {name: wilson(sum(column), len(column)) for name, column in values.items() if set(column) <= {0.0, 1.0}}


def standard_errors(rows: Sequence[Row], aggregate: Aggregate, seed: int = 0) -> dict[str, float]:
    """Standard error of every metric: its spread over resampled sets of rows."""
    drawn = _drawn(rows, aggregate)
    draws = [drawn(chosen) for chosen in _resamples(rows, seed)]
    return {name: float(np.std([draw[name] for draw in draws if name in draw])) for name in aggregate(rows)}


def retention(
    rows: Sequence[Row], baseline: Sequence[Row], aggregate: Aggregate, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Every metric relative to the unpruned run's, with a 95 % interval, over the samples that both answered.

    A metric that is zero without pruning has no retention and is left out.
    """
    ratios = resampled_ratios(rows, baseline, aggregate, seed)
    return {name: {"value": value, **interval(draws)} for name, (value, draws) in ratios.items()}


def resampled_ratios(
    rows: Sequence[Row], baseline: Sequence[Row], aggregate: Aggregate, seed: int = 0
) -> dict[str, tuple[float, list[float]]]:
    """Every metric's retention, and its values over resamples, both runs drawn together."""
    rows, pairs = answered_by_both(rows, baseline)
    if not rows:
        return {}
    values, full = aggregate(rows), aggregate(pairs)
    draws: dict[str, list[float]] = {name: [] for name in values if full.get(name)}
    ours_of, theirs_of = _drawn(rows, aggregate), _drawn(pairs, aggregate)
    for chosen in _resamples(rows, seed):
        ours, theirs = ours_of(chosen), theirs_of(chosen)
        for name in draws:
            if theirs.get(name):
                draws[name].append(ours[name] / theirs[name])
    return {name: (values[name] / full[name], ratios) for name, ratios in draws.items() if ratios}


def answered_by_both(rows: Sequence[Row], others: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """The rows of two runs whose samples both have, in the order of the first."""
    known = {row["id"]: row for row in others}
    rows = [row for row in rows if row["id"] in known]
    return rows, [known[row["id"]] for row in rows]


def interval(values: Sequence[float]) -> dict[str, float]:
    """The 95 % interval of values over resamples."""
    low, high = np.percentile(values, [2.5, 97.5])
    return {"low": float(low), "high": float(high)}


def _drawn(rows: Sequence[Row], aggregate: Aggregate) -> Callable[[Indices], dict[str, float]]:
    """The metrics of resampled rows, given their indices. Where metrics are means, no row is looked at again."""
    if not takes_means(aggregate):
        return lambda chosen: aggregate([rows[i] for i in chosen.tolist()])
    names = list(dict.fromkeys(name for row in rows for name in row["scores"]))
    scores = np.array([[row["scores"].get(name, np.nan) for name in names] for row in rows])
    known = ~np.isnan(scores)
    scores[~known] = 0.0

    def means(chosen: Indices) -> dict[str, float]:
        sums, counts = scores[chosen].sum(axis=0), known[chosen].sum(axis=0)
        return {name: float(total / n) for name, total, n in zip(names, sums, counts, strict=True) if n}

    return means


def _resamples(rows: Sequence[Row], seed: int) -> Iterator[Indices]:
    """Indices of resampled rows, whole groups drawn with replacement within each task."""
    rng = np.random.default_rng([seed, len(rows)])
    tasks: dict[str, dict[str, list[int]]] = {}
    for index, row in enumerate(rows):
        group = row.get("meta", {}).get("group", row["id"])
        tasks.setdefault(row["task"], {}).setdefault(group, []).append(index)
    blocks = [
        (np.concatenate(list(groups.values())), np.array([*map(len, groups.values())])) for groups in tasks.values()
    ]
    for _ in range(RESAMPLES):
        yield np.concatenate([_members(*block, rng.choice(len(block[1]), len(block[1]))) for block in blocks])


def _members(indices: Indices, sizes: Indices, groups: Indices) -> Indices:
    """The ``indices`` of some ``groups``, one group after the other; they stand in groups of ``sizes``."""
    lengths = sizes[groups]
    ends = np.cumsum(lengths)
    starts = (np.cumsum(sizes) - sizes)[groups]
    return indices[np.repeat(starts - ends + lengths, lengths) + np.arange(ends[-1])]
