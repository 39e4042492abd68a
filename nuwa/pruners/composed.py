"""Composed: any vision-stage method before the LLM, then any LLM-stage method on what is left, under one budget."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from nuwa.pruners.base import MethodInfo, Pruner, require
from nuwa.pruners.catalogue import find_method
from nuwa.pruners.contexts import LLMContext, LLMDecision, VisionContext, VisionDecision
from nuwa.pruners.tower import Tap, Tower
from nuwa.pruning.budget import Budget, Dial
from nuwa.pruning.flops import ModelShape
from nuwa.pruning.layout import Grid
from nuwa.pruning.schedules import Schedule, Share
from nuwa.pruning.tiling import Tiling


@dataclass
class Composed(Pruner):
    """``vision`` and ``llm`` are names of methods, with the options of their config files.

    ``split`` divides the reduction between them, in the logarithm: of N tokens and a budget of T, N (T / N)^split enter
    the LLM; 1 leaves all of it to the vision method, 0 to the LLM method. Of the numbers that a vision method can make
    (grids), it makes the nearest that is not below T, and the LLM method does the rest. A method with both stages can
    take the vision part with its own vision stage. Native positions are renumbered, as by the authors of the two
    default methods.

    After a vision method that counts by itself, the LLM method keeps shares of what entered. ``adaptive`` lets the
    vision method's images decide on their numbers; a run then finds the coefficient that spends the budget on average.
    """

    vision: str = "visionzip"
    llm: str = "pyramiddrop"
    split: float = 0.5
    adaptive: bool = False

    name: ClassVar[str] = "composed"
    native_position: ClassVar[str] = "perc"
    info: ClassVar[MethodInfo] = MethodInfo(
        signal="that of its two parts",
        counts="ours: the reduction divided evenly, in the logarithm",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.split <= 1, "split", "in [0, 1]", self.split)
        self._before, self._inside = self._part("vision", self.adaptive), self._part("llm")
        require(self._before.prunes_vision, "vision", "a method that prunes before the LLM", self.vision)
        single = self._inside.prunes_llm and not self._inside.prunes_vision
        require(single, "llm", "a method that prunes inside the LLM only", self.llm)

    def check_tower(self, tower: Tower) -> None:
        self._before.check_tower(tower)
        self._inside.check_tower(tower)

    def check_llm(self, shape: ModelShape) -> None:
        self._inside.check_llm(shape)

    def _part(self, key: str, adaptive: bool = False) -> Pruner:
        name = getattr(self, key)
        require(name != self.name, key, "a single method", name)
        kind, options = find_method(name)
        require(not adaptive or hasattr(kind, "adaptive"), "adaptive", f"false with pruner.vision={name}", adaptive)
        return kind(seed=self.seed, **(options | {"adaptive": True} if adaptive else options))

    @property
    def dial(self) -> Dial | None:
        return self._before.dial

    def turned(self, value: float) -> Pruner:
        """The budget stays: it says what shares the LLM method keeps."""
        turned = copy.copy(self)
        turned._before = self._before.turned(value)
        return turned

    @property
    def taps(self) -> Mapping[str, Tap]:
        return self._before.taps

    @property
    def needs(self) -> Set[str]:
        return self._inside.needs

    @property
    def tiling(self) -> Tiling:
        return replace(self._before, budget=self.budget).tiling  # without a budget all see whole views

    @property
    def counts_by_itself(self) -> bool:
        return self._before.counts_by_itself or self._inside.counts_by_itself

    @property
    def vision_key(self) -> str:
        return self._before.vision_key

    @property
    def merges(self) -> bool:
        return self._before.merges or self._inside.merges

    def _share(self, n_tokens: int) -> tuple[Pruner, Pruner, int]:
        """Both parts with their budgets, and how many tokens enter the LLM."""
        target = self.budget.tokens(n_tokens)
        wished = round(n_tokens * (target / n_tokens) ** self.split)
        entering = min(self._before.reachable_counts(wished, n_tokens), key=lambda count: count < target)
        before = self._before if self.adaptive else replace(self._before, budget=Budget(average=entering))
        return before, replace(self._inside, budget=Budget(average=min(target, entering))), entering

    def schedule(self, n_tokens: int, layers: int) -> Schedule:
        before, inside, entering = self._share(n_tokens)
        if not before.prunes_llm:
            before.schedule(n_tokens, layers)  # refuses a count that it cannot make
        stages = inside.schedule(entering, layers).llm
        if before.counts_by_itself:
            stages = tuple((layer, Share(count / entering)) for layer, count in Schedule(0, stages).stages(0).items())
        return Schedule(entering, stages)

    def image_grid(self, grid: Grid | None, layers: int) -> Grid | None:
        before = self._before if grid is None else self._share(grid[0] * grid[1])[0]
        return before.image_grid(grid, layers)

    def prune_vision(self, context: VisionContext, keep: int) -> VisionDecision:
        return self._before.prune_vision(context, keep)

    def prune_llm(self, context: LLMContext, keep: Tensor) -> Tensor | LLMDecision:
        return self._inside.prune_llm(context, keep)

    def metric_flops(self, n_tokens: int, shape: ModelShape) -> float:
        """Both parts'."""
        before, inside, entering = self._share(n_tokens)
        return before.metric_flops(n_tokens, shape) + inside.metric_flops(entering, shape)
