"""Token budgets, and how what layers hold is counted. Pure functions.

The average token count is the Nüwa paper's: the mean over LLM layers of an image's visual tokens *entering* the layer.
SparseVLM's authors count the tokens *leaving* each layer; both are reported.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real


class BudgetError(ValueError):
    """A budget that a method cannot reach; the message says which it can."""


@dataclass(frozen=True)
class Budget:
    """How many visual tokens an image may cost: ``average`` over layers, or ``ratio`` of the image's tokens.

    Tokens are patches: the newlines between rows of LLaVA-NeXT's tiles cost nothing here (640 of 2,880 in the paper
    counts none either), though the counts that are measured in every layer include them. Under dynamic resolution an
    image for which ``average`` is more than its method can spend (`Pruner.max_schedule`) costs that, or stays whole,
    and so does one of so few tokens that its method cannot come near ``ratio``.
    """

    average: float | None = None
    ratio: float | None = None

    def __post_init__(self) -> None:
        for name in ("average", "ratio"):
            value = getattr(self, name)
            if value is None:
                continue
            if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value):
                raise BudgetError(f"budget.{name} must be a finite number, not {value!r}")
            plain = int(value) if isinstance(value, Integral) else float(value)  # numpy's could not be saved
            object.__setattr__(self, name, plain)
        if self.average is not None and self.ratio is not None:
            raise BudgetError("budget.average and budget.ratio exclude each other: set one of them to null")
        if self.average is not None and self.average <= 0:
            raise BudgetError(f"budget.average must be positive, not {self.average}")
        if self.ratio is not None and not 0 < self.ratio <= 1:
            raise BudgetError(f"budget.ratio must be in (0, 1], not {self.ratio}")

    @property
    def full(self) -> bool:
        """No budget was set: every token may stay."""
        return self.average is None and self.ratio is None

    @property
    def asked(self) -> float:
        """The number that was set, in tokens or as a share of the image's; 1 if none was."""
        return next((number for number in (self.average, self.ratio) if number is not None), 1.0)

    def spent(self, entering: float, n_tokens: int) -> float:
        """What an image of ``n_tokens`` spends, in the unit of ``asked``, if ``entering`` of them do on average."""
        return entering if self.average is not None else entering / n_tokens

    def tokens(self, n_tokens: int) -> float:
        """The average number of tokens that an image of ``n_tokens`` may keep.

        Raises:
            BudgetError: the budget is larger than the image.
        """
        target = self.average if self.average is not None else (self.ratio or 1.0) * n_tokens
        if target > n_tokens:
            raise BudgetError(f"budget.average={target:g} is more than the {n_tokens} visual tokens of an image")
        return target


@dataclass(frozen=True)
class Dial:
    """The option of a method with which fewer or more tokens stay, where every image decides on its number.

    ``fewest`` and ``most`` are the values at which the fewest and the most stay; in between the mean only rises.
    """

    option: str
    fewest: float
    most: float


def turn_dial(mean_at: Callable[[float], float], dial: Dial, target: float, steps: int = 40) -> float:
    """The value of a dial at which ``mean_at`` comes closest to ``target``, by bisection; within 1 % is close enough.

    Raises:
        BudgetError: the target lies outside of what the ends of the dial give; the message names both.
    """
    low, high = dial.fewest, dial.most
    ends = {low: mean_at(low), high: mean_at(high)}
    if not ends[low] <= target <= ends[high]:
        reached = " to ".join(f"{mean:.4g} ({dial.option}={value:g})" for value, mean in ends.items())
        raise BudgetError(f"a mean of {target:g} is out of reach; it reaches {reached}")
    tried = dict(ends)
    for _ in range(steps):
        best = min(tried, key=lambda value: abs(tried[value] - target))
        if abs(tried[best] - target) <= 0.01 * target:
            break
        middle = math.sinh((math.asinh(low) + math.asinh(high)) / 2)  # ends may be orders of magnitude apart
        tried[middle] = mean_at(middle)
        low, high = (middle, high) if tried[middle] < target else (low, middle)
    return min(tried, key=lambda value: abs(tried[value] - target))


def average_entering(per_layer: Sequence[float]) -> float:
    """Mean number of visual tokens entering a layer (the Nüwa paper's average)."""
    return sum(per_layer) / len(per_layer)


def average_leaving(per_layer: Sequence[float]) -> float:
    """Mean number of visual tokens leaving a layer (the count of SparseVLM's released code, commit 26a5f48)."""
    return average_entering([*per_layer[1:], per_layer[-1]])
