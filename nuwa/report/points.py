"""What plots show, as numbers: one point per run and headline metric."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from nuwa.evaluation.runs import Choices, Result, choices_of
from nuwa.report.table import headline

PARTS = ("region", "pillar", "random")
COSTS = ("tokens_entering", "llm_tflops")
INTERVAL = 1.96  # standard errors on either side: 95 %


@dataclass(frozen=True)
class Point:
    """One run's headline in percent, its 95 % interval from ``low`` to ``high``, and what it cost.

    Over several seeds: their mean, and 1.96 of their standard deviations on either side.
    """

    choices: Choices
    panel: tuple[str, str]
    tokens: float
    tflops: float
    value: float
    low: float
    high: float

    @property
    def errors(self) -> tuple[float, float]:
        """How far the interval reaches below and above."""
        return max(0.0, self.value - self.low), max(0.0, self.high - self.value)

    @property
    def method(self) -> str:
        """The method, with its position ids where they are not its authors'."""
        return self.choices.method + (f", {self.choices.position}" if self.choices.position != "native" else "")

    @property
    def budget(self) -> str:
        """The budget as a reader names it."""
        return self.choices.budget

    def varied(self, *names: str) -> bool:
        """Whether the method has all these options, and every other as its config file says."""
        own = self.choices.options
        return all(name in own for name in names) and self.choices.has_options({name: own[name] for name in names})


def points_of(results: Iterable[Result]) -> list[Point]:
    """Points of all finished runs that block nothing, those of several seeds as one.

    Shares become percent; a metric in points (MME, always above 1) counts as it is.
    """
    done = [result for result in results if result.get("status") == "done" and result.keys() >= set(COSTS)]
    points = [point for result in done for point in _points(result) if point.choices.blocking is None]
    groups = grouped(points, _but_seed)
    return [_merged(groups[key]) for key in sorted(groups, key=str)]  # the same plot whatever the order of folders


def _but_seed(point: Point) -> Hashable:
    """Every choice but the seed."""
    c = point.choices
    return (c.model, point.panel, c.method, c.position, c.average, c.ratio, str(sorted(c.options.items())), c.rest)


def _points(result: Result) -> list[Point]:
    choices = choices_of(result)
    points = []
    for name in headline([result]):
        scale = 100.0 if result["metrics"][name] <= 1 else 1.0
        numbers = (scale * number for number in (result["metrics"][name], *_interval(result, name)))
        points.append(
            Point(choices, (choices.dataset, name), result["tokens_entering"], result["llm_tflops"], *numbers)
        )
    return points


def _interval(result: Result, name: str) -> tuple[float, float]:
    """The interval that a result gives for a share; otherwise 1.96 standard errors, as far as the metric goes."""
    if name in result.get("intervals", {}):
        low, high = result["intervals"][name]
        return low, high
    value, error = result["metrics"][name], INTERVAL * result.get("standard_errors", {}).get(name, 0.0)
    return max(0.0, value - error), min(1.0, value + error) if value <= 1 else value + error


def _merged(group: Sequence[Point]) -> Point:
    """One point for several seeds."""
    first = group[0]
    if len(group) == 1:
        return first
    tokens, tflops, value = (mean(getattr(point, name) for point in group) for name in ("tokens", "tflops", "value"))
    error = INTERVAL * stdev(point.value for point in group)
    return Point(first.choices, first.panel, tokens, tflops, value, value - error, value + error)


def grouped(points: Iterable[Point], key: Callable[[Point], Hashable]) -> dict[Hashable, list[Point]]:
    """Points by a key, in the order in which keys appear."""
    groups: dict[Hashable, list[Point]] = {}
    for point in points:
        groups.setdefault(key(point), []).append(point)
    return groups


def budget_points(points: Iterable[Point]) -> list[Point]:
    """Points of methods as their config files have them: what budgets are compared on."""
    return [point for point in points if point.varied()]


def distance_points(points: Iterable[Point]) -> list[Point]:
    """Points that differ in d_thresh alone, of methods with two distances or more."""
    found = grouped((point for point in points if point.varied("d_thresh")), lambda p: (p.method, p.budget, p.panel))
    return [p for group in found.values() if len({q.choices.options["d_thresh"] for q in group}) > 1 for p in group]


def part_points(points: Iterable[Point]) -> list[Point]:
    """Points that differ in region, pillar and random alone, of methods with two combinations or more."""
    found = grouped((point for point in points if point.varied(*PARTS)), lambda p: (p.method, p.budget, p.panel))
    return [p for group in found.values() if len({parts_of(q) for q in group}) > 1 for p in group]


def parts_of(point: Point) -> tuple[bool, bool, bool]:
    """Whether regions, pillars and a random second stage are on."""
    return tuple(bool(point.choices.options[name]) for name in PARTS)
