"""What plots show, as numbers: one point per run and headline metric."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from math import hypot
from statistics import mean, stdev
from typing import Any, TypeVar

from nuwa.evaluation.choices import Choices
from nuwa.evaluation.runs import Run
from nuwa.evaluation.scores import RunScore
from nuwa.report.labels import dataset_label, method_label, metric_label, position_label

METHOD_PARTS = ("region", "pillar", "random")
Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)
INTERVAL = 1.96  # standard errors on either side: 95 %


@dataclass(frozen=True)
class Point:
    """One run's headline in percent, its 95 % interval from ``low`` to ``high``, and what it cost.

    ``tokens`` enter a layer on average, ``seconds`` were measured for each sample.

    Over several seeds: their mean; the interval is as wide as one seed's on average and 1.96 of their standard
    deviations together (root of squares), as the seeds share their samples.
    """

    choices: Choices
    panel: tuple[str, str]
    tokens: float
    tflops: float
    value: float
    low: float
    high: float
    seconds: float | None = None

    @property
    def errors(self) -> tuple[float, float]:
        """How far the interval reaches below and above."""
        return max(0.0, self.value - self.low), max(0.0, self.high - self.value)

    @property
    def method(self) -> str:
        """The method with its `position`."""
        return f"{method_label(self.choices.method)}, {self.position}"

    @property
    def position(self) -> str:
        """The position strategy, and what else of this kind is not as usual."""
        return ", ".join([position_label(self.choices.strategy), *self.choices.extras])

    def varied(self, *names: str) -> bool:
        """Whether the method has all these options, and every other as its config file says."""
        own = self.choices.options
        return all(name in own for name in names) and self.choices.has_options({name: own[name] for name in names})

    def values(self, *names: str) -> tuple[Any, ...]:
        """What the method's options are set to."""
        return tuple(self.choices.options[name] for name in names)


def panel_label(panel: tuple[str, str]) -> str:
    """A data set and what was measured on it.

    >>> panel_label(("refcoco_testA", "refcoco/ACC@0.5"))
    'RefCOCO testA: accuracy at IoU 0.5'
    """
    dataset, metric = panel
    return f"{dataset_label(dataset)}: {metric_label(metric, dataset)}"


def score_axis(points: Sequence[Point], at_a_budget: bool) -> tuple[str, tuple[float, float | None]]:
    """What an axis of scores counts, and its limits; with the budget of all points, where no other axis says it."""
    shares, budgets = max(point.value for point in points) <= 100, budgets_of(points)
    unit, limits = ("percent", (-3, 103)) if shares else ("points", (0, None))
    return f"{unit}, budget {budgets.pop()}" if at_a_budget and len(budgets) == 1 else unit, limits


def row_label(points: Sequence[Point]) -> Callable[[Point], str]:
    """What a point's row is called: its method, with its budget where the points have several."""
    several = len(budgets_of(points)) > 1
    return lambda point: method_label(point.choices.method) + (f", {point.choices.budget}" if several else "")


def budgets_of(points: Iterable[Point]) -> set[str]:
    """What the methods may keep."""
    return {point.choices.budget for point in points}


def pruned_points(points: Iterable[Point]) -> tuple[list[Point], bool]:
    """Points of pruned runs with the options of their config files, and whether any method has several budgets."""
    pruned = [point for point in points if point.varied() and point.choices.method != "none"]
    lines = grouped(pruned, lambda point: (point.method, point.panel)).values()
    return pruned, any(len(line) > 1 for line in lines)


def points_of(runs: Iterable[Run]) -> list[Point]:
    """Points of all finished runs that block nothing, those of several seeds as one.

    Shares become percent; a metric in points (MME, always above 1) counts as it is.
    """
    free = [run for run in runs if run.done and run.choices.blocking is None]
    groups = grouped((point for run in free for point in _points(run)), _but_seed)
    return [_merged(groups[key]) for key in sorted(groups, key=str)]  # the same plot whatever the order of folders


def _but_seed(point: Point) -> Hashable:
    """Every choice but the seed."""
    c = point.choices
    named = c.method, c.position, c.calibration, c.coordinates, str(sorted(c.options.items()))
    return (c.model, point.panel, named, c.average, c.ratio, c.rest)


def _points(run: Run) -> list[Point]:
    """The headlines of a run; none where its costs are not known."""
    tokens, tflops = run.tokens_entering, run.llm_tflops
    if tokens is None or tflops is None:
        return []
    points = []
    for score in (RunScore(run, name) for name in run.headlines.values()):
        value = run.metrics[score.metric]
        scale = 100.0 if value <= 1 else 1.0
        low, high = score.interval or error_interval(value, score.error or 0.0)
        panel = (run.choices.dataset, score.metric)
        seconds = run.timings.get("seconds_per_sample")
        points.append(Point(run.choices, panel, tokens, tflops, scale * value, scale * low, scale * high, seconds))
    return points


def error_interval(value: float, error: float) -> tuple[float, float]:
    """1.96 standard errors on either side, as far as the metric goes."""
    high = value + INTERVAL * error
    return max(0.0, value - INTERVAL * error), min(1.0, high) if value <= 1 else high


def _merged(group: Sequence[Point]) -> Point:
    """One point for several seeds."""
    first = group[0]
    if len(group) == 1:
        return first
    tokens, tflops, value = (mean(getattr(point, name) for point in group) for name in ("tokens", "tflops", "value"))
    between = INTERVAL * stdev(point.value for point in group)
    below, above = (hypot(between, mean(sides)) for sides in zip(*(point.errors for point in group), strict=True))
    low, high = max(0.0, value - below), min(100.0, value + above) if value <= 100 else value + above
    seconds = [point.seconds for point in group if point.seconds is not None]
    spent = mean(seconds) if seconds else None
    return Point(first.choices, first.panel, tokens, tflops, value, low, high, spent)


def grouped(points: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """Points by a key, in the order in which keys appear."""
    groups: dict[Key, list[Item]] = {}
    for point in points:
        groups.setdefault(key(point), []).append(point)
    return groups


def varied_points(points: Iterable[Point], *names: str) -> list[Point]:
    """Points that differ in the named options alone, of methods that have two combinations of them or more."""
    varied = (point for point in points if point.varied(*names))
    found = grouped(varied, lambda point: (point.method, point.choices.budget, point.panel))
    return [p for group in found.values() if len({p.values(*names) for p in group}) > 1 for p in group]
