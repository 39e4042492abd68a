"""No pruning: the unpruned model, against which every other method is measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nuwa.pruners.base import MethodInfo, Pruner
from nuwa.pruning.budget import BudgetError
from nuwa.pruning.schedules import Schedule


@dataclass
class KeepAll(Pruner):
    """Keep every token."""

    name: ClassVar[str] = "none"
    info: ClassVar[MethodInfo] = MethodInfo(signal="nothing: every token stays")

    def schedule(self, n_tokens: int, layers: int) -> Schedule:
        if not self.budget.full:
            raise BudgetError("pruner none does not prune and meets no budget: use budget=full")
        return Schedule(n_tokens)
