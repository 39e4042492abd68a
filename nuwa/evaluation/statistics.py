"""How sure a number is: bootstrap over samples, for any metric that a benchmark computes from rows.

Samples are drawn with replacement within their task, so that every resample holds as many of each task as the data
does. Samples that are scored together (``meta["group"]``: the questions to one picture, the rotations of one question)
are drawn together. A retention compares two runs on the same samples, which both get in every resample (paired). Where
all samples agree, a bootstrap has no width; Wilson's interval takes its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import copysign, sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from nuwa.benchmarks.base import Benchmark, mean_scores
from nuwa.evaluation.journal import Row

Indices = NDArray[np.int64]
RESAMPLES = 500
SAME = 1e-12
"""How far rounding may move apart the ratios of resamples that agree."""


def wilson(successes: float, total: float, z: float = 1.96) -> tuple[float, float]:
    """Wilson's interval of a share (Wilson 1927); unlike the bootstrap it has a width when every sample agrees.

    >>> low, high = wilson(8, 10)
    >>> f"{low:.3f} to {high:.3f}"
    '0.490 to 0.943'
    """
    if total == 0:
        return 0.0, 1.0
    share, spread = successes / total, z * z / total
    centre = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * sqrt(share * (1 - share) / total + spread / (4 * total))
    return max(0.0, centre - half), min(1.0, centre + half)


def share_intervals(rows: Sequence[Row]) -> dict[str, tuple[float, float]]:
    """Wilson's 95 % interval of every metric that is right or wrong (0 or 1) on each sample.

    Samples that are scored together count as fewer, by the design effect of their grouping (`effective_count`).
    """
    values: dict[str, list[list[float]]] = {}
    for group in (group for task in _grouped(rows) for group in task):
        for name in dict.fromkeys(name for row in group for name in row["scores"]):
            values.setdefault(name, []).append([row["scores"][name] for row in group if name in row["scores"]])
    shares = {name: groups for name, groups in values.items() if {v for group in groups for v in group} <= {0.0, 1.0}}
    return {name: wilson(_mean(groups) * n, n) for name, groups in shares.items() for n in [effective_count(groups)]}


def effective_count(groups: Sequence[Sequence[float]]) -> float:
    """How many independent samples say as much about a share as these groups of values 0 and 1.

    It is the number of samples divided by the design effect (Kish 1965), which compares the variance of a mean over
    groups (linearised) with that of as many independent samples. Groups of one sample count in full. Where all samples
    agree, each group counts once.

    >>> effective_count([[1.0], [0.0], [1.0]]), effective_count([[1.0, 1.0], [1.0, 1.0]])
    (3, 2)
    """
    count, share = sum(map(len, groups)), _mean(groups)
    if len(groups) == count:
        return count
    if share in (0, 1) or len(groups) == 1:
        return len(groups)
    between = sum((sum(group) - share * len(group)) ** 2 for group in groups) * len(groups) / (len(groups) - 1)
    return count / max(1.0, between / (count * share * (1 - share)))


def _mean(groups: Sequence[Sequence[float]]) -> float:
    return sum(map(sum, groups)) / sum(map(len, groups))


def standard_errors(rows: Sequence[Row], benchmark: Benchmark, seed: int = 0) -> dict[str, float]:
    """Standard error of every metric: its standard deviation over resampled sets of rows."""
    tasks = _grouped(rows)
    draws = [*map(_drawn(tasks, benchmark), _resamples(tasks, seed))]
    return {name: float(np.std([draw[name] for draw in draws if name in draw])) for name in benchmark.metrics(rows)}


def retention(
    rows: Sequence[Row], baseline: Sequence[Row], benchmark: Benchmark, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Every metric divided by the unpruned run's, over the samples that both answered.

    Returns ``value``, ``low`` and ``high`` (95 % interval) by metric. A metric that is 0 without pruning is left out.
    An interval has no width where the rows are the unpruned run's in all that they say, kept tokens included.
    """
    ratios = resampled_ratios(rows, baseline, benchmark, seed)
    return {name: {"value": value, **interval(draws)} for name, (value, draws) in ratios.items()}


def resampled_ratios(
    rows: Sequence[Row], baseline: Sequence[Row], benchmark: Benchmark, seed: int = 0
) -> dict[str, tuple[float, list[float]]]:
    """Every metric's retention, and its values over resamples in which both runs have the same samples.

    Where no resample differs, which a retention of 0 or 100 % may mean, the values are those of `unanimous_ratios`.
    """
    rows, pairs = answered_by_both(rows, baseline)
    if not rows:
        return {}
    values, full = benchmark.metrics(rows), benchmark.metrics(pairs)
    draws: dict[str, list[float]] = {name: [] for name in values if full.get(name)}
    tasks, partner = _grouped(rows), dict(zip((row["id"] for row in rows), pairs, strict=True))
    paired = [[[partner[row["id"]] for row in group] for group in groups] for groups in tasks]
    ours_of, theirs_of = _drawn(tasks, benchmark), _drawn(paired, benchmark)
    for chosen in _resamples(tasks, seed):
        ours, theirs = ours_of(chosen), theirs_of(chosen)
        for name in draws:
            if theirs.get(name) and name in ours:
                draws[name].append(ours[name] / theirs[name])
    if rows != pairs:
        for name, ratios in draws.items():
            if ratios and np.ptp(ratios) < SAME:
                draws[name] = unanimous_ratios(ratios[0], full[name], _groups_behind(name, tasks, benchmark), seed)
    return {name: (values[name] / full[name], ratios) for name, ratios in draws.items() if ratios}


def unanimous_ratios(ratio: float, full: float, groups: int, seed: int = 0) -> list[float]:
    """What a retention may be that no resample of ``groups`` moves from ``ratio``, as values like those of resamples.

    Two runs that never differ in n pairs differ in less than Wilson's bound for 0 of n. This is the score interval of
    a difference between paired shares (Tango 1998, with no discordant pair); relative to the unpruned run's metric
    ``full``, its quantiles are the values. A metric in points (above 1) moves by the bound itself.

    >>> values = unanimous_ratios(0.0, 0.5, groups=96)
    >>> f"{min(values)}, {np.quantile(values, 0.975):.3f}, {wilson(0, 96)[1] / 0.5:.3f}"
    '0.0, 0.077, 0.077'
    """
    last = RESAMPLES - 1
    scores = [NormalDist().inv_cdf(min(max(place, 0.5), last - 0.5) / last) for place in range(RESAMPLES)]
    moved = [copysign(wilson(0, groups, abs(z))[1], z) / min(1.0, full) for z in scores]
    values = np.clip(ratio + np.array(moved), 0.0, 1 / full if full <= 1 else np.inf)
    return np.random.default_rng([seed, groups]).permutation(values).tolist()


def _groups_behind(name: str, tasks: list[list[list[Row]]], benchmark: Benchmark) -> int:
    """How many groups have a part in the number ``name``: a unit whose mean changes it."""
    units = [benchmark.units(group) for groups in tasks for group in groups]
    means = mean_scores(unit for group in units for unit in group)
    number = benchmark.numbers(means)[name]
    parts = {part for part, mean in means.items() if benchmark.numbers(means | {part: mean / 2 or 0.5})[name] != number}
    return sum(any(not parts.isdisjoint(unit) for unit in group) for group in units)


def answered_by_both(rows: Sequence[Row], others: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """The rows of the samples that two runs share, in the order of the first; one judge must have marked both.

    >>> answered_by_both([{"id": "b"}, {"id": "a"}], [{"id": "a"}, {"id": "c"}])
    ([{'id': 'a'}], [{'id': 'a'}])
    """
    known = {row["id"]: row for row in others}
    rows = [row for row in rows if row["id"] in known and row.get("judge") == known[row["id"]].get("judge")]
    return rows, [known[row["id"]] for row in rows]


def interval(values: Sequence[float]) -> dict[str, float]:
    """The 95 % interval of values over resamples."""
    low, high = np.percentile(values, [2.5, 97.5])
    return {"low": float(low), "high": float(high)}


def _grouped(rows: Sequence[Row]) -> list[list[list[Row]]]:
    """The rows that are scored together, by task."""
    tasks: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        group = row.get("meta", {}).get("group", row["id"])
        tasks.setdefault(row["task"], {}).setdefault(group, []).append(row)
    return [list(groups.values()) for groups in tasks.values()]


def _drawn(tasks: list[list[list[Row]]], benchmark: Benchmark) -> Callable[[Indices], dict[str, float]]:
    """The metrics of groups of rows, by the groups' numbers: one loop over rows in advance, none for each draw."""
    units = [benchmark.units(group) for task in tasks for group in task]
    sizes, flat = np.array([*map(len, units)]), [unit for group in units for unit in group]
    names = list(dict.fromkeys(name for unit in flat for name in unit))
    values = np.array([[unit.get(name, np.nan) for name in names] for unit in flat]).reshape(len(flat), len(names))
    known = ~np.isnan(values)
    values[~known] = 0.0

    def metrics(chosen: Indices) -> dict[str, float]:
        places = _members(sizes, chosen)
        sums, counts = values[places].sum(axis=0), known[places].sum(axis=0)
        means = {name: float(total / n) for name, total, n in zip(names, sums, counts, strict=True) if n}
        return benchmark.numbers(means)

    return metrics


def _resamples(tasks: list[list[list[Row]]], seed: int) -> Iterator[Indices]:
    """Numbers of resampled groups, drawn with replacement within each task."""
    sizes = [len(groups) for groups in tasks]
    rng = np.random.default_rng([seed, sum(len(group) for groups in tasks for group in groups)])
    starts = np.cumsum([0, *sizes[:-1]])
    for _ in range(RESAMPLES):
        yield np.concatenate([start + rng.choice(size, size) for start, size in zip(starts, sizes, strict=True)])


def _members(sizes: Indices, groups: Indices) -> Indices:
    """The places of the members of some ``groups``, one group after the other, where all groups stand in a row."""
    lengths = sizes[groups]
    ends = np.cumsum(lengths)
    starts = (np.cumsum(sizes) - sizes)[groups]
    return np.repeat(starts - ends + lengths, lengths) + np.arange(ends[-1])
