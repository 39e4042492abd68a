"""Which way of pruning to take: the cheapest whose loss stays within a bound, and how sure that choice is. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np


@dataclass(frozen=True)
class Option:
    """One way to run a model: what it costs, and what it ``keeps`` of the unpruned model's score (1: all).

    ``draws`` are what it keeps in resamples of the samples, the same resamples for every option.
    """

    cost: float
    keeps: float
    draws: tuple[float, ...] = ()


Chosen = TypeVar("Chosen", bound=Option)


def front(options: Sequence[Chosen]) -> list[Chosen]:
    """The options that no other one beats: none costs less and keeps as much, or keeps more at the same cost.

    Cheapest first; of equal ones all.

    >>> [option.cost for option in front([Option(1, 0.8), Option(2, 0.7), Option(3, 1.0), Option(3, 0.9)])]
    [1, 3]
    """
    best: list[Chosen] = []
    for option in sorted(options, key=lambda one: (one.cost, -one.keeps)):
        if not best or option.keeps > best[-1].keeps or (option.cost, option.keeps) == (best[-1].cost, best[-1].keeps):
            best.append(option)
    return best


def cheapest(options: Sequence[Chosen], loss: float) -> Chosen | None:
    """The cheapest option that keeps ``1 - loss`` or more, of equal ones that which keeps most; None if none does.

    >>> cheapest([Option(1, 0.8), Option(2, 0.985), Option(3, 1.0)], loss=0.02)
    Option(cost=2, keeps=0.985, draws=())
    """
    within = [option for option in options if option.keeps >= 1 - loss - 1e-9]
    return min(within, key=lambda one: (one.cost, -one.keeps), default=None)


def sureness(options: Sequence[Chosen], chosen: Chosen, loss: float) -> float:
    """The share of the resamples in which ``chosen`` would be chosen, too.

    Raises:
        ValueError: the options were not resampled alike.

    >>> one, two = Option(1, 0.99, (0.97, 0.99, 0.99, 0.99)), Option(2, 1.0, (1.0,) * 4)
    >>> sureness([one, two], one, loss=0.02)
    0.75
    """
    lengths = {len(option.draws) for option in options}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(f"options have {', '.join(map(str, sorted(lengths)))} resamples: they need equally many")
    keeps = np.array([option.draws for option in options])
    costs = np.array([option.cost for option in options])[:, None]
    costs = np.where(keeps >= 1 - loss - 1e-9, costs, np.inf)
    tied = np.where(costs == costs.min(0), keeps, -np.inf)
    place = next(number for number, option in enumerate(options) if option is chosen)
    return float(np.mean((tied.argmax(0) == place) & np.isfinite(costs[place])))
