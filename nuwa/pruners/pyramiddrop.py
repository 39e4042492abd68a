"""PyramidDrop (arXiv 2410.17247; code Cooperx521/PyramidDrop, commit 6444f30): fewer tokens at every stage.

On entry of a few layers of the LLM, the visual tokens go that the last prompt token attends to least. The row comes
from the projections of the layer that is entered, before it runs.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from nuwa.pruners.base import LLMContext, MethodInfo, Pruner
from nuwa.pruning.flops import ModelShape, attention_score_flops
from nuwa.pruning.schedules import Schedule, fit_schedule, staged

LADDERS = {"late": (1 / 4, 1 / 2, 3 / 4), "early": (1 / 16, 1 / 4, 1 / 2)}
"""Depths of the stages: the authors' layers 8, 16, 24 of 32, and 2, 8, 16 for budgets that these cannot reach."""


def pyramid(n_tokens: int, share: float, depths: tuple[float, ...], layers: int) -> Schedule:
    """Stage i keeps ``share ** i`` of the image's tokens, one or more: the authors' .5, .25, .125."""
    counts = [max(1, int(n_tokens * share ** (i + 1))) for i in range(len(depths))]
    return staged(n_tokens, depths, counts, layers)


@dataclass
class PyramidDrop(Pruner):
    """Drop what the last prompt token attends to least, at three stages.

    ``ladder`` places them: ``late`` and ``early`` as in `LADDERS`, ``auto`` late wherever that reaches.
    The authors publish one ladder, .5, .25, .125 (average 270 of 576); other budgets are met with another factor, which
    is ours. The release recreates ids after every stage (PERC).
    """

    ladder: Literal["auto", "late", "early"] = "auto"

    name: ClassVar[str] = "pyramiddrop"
    native_position: ClassVar[str] = "perc"
    needs: ClassVar[Set[str]] = {"attention"}
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="arXiv 2410.17247",
        source="Cooperx521/PyramidDrop@6444f30",
        signal="attention of the last prompt token",
        text_aware=True,
        counts="ours: solved for the average (authors: 0.5, 0.25, 0.125, which is 270 of 576)",
    )

    def schedule(self, n_tokens: int, layers: int) -> Schedule:
        target = self.budget.tokens(n_tokens)
        floors = {name: pyramid(n_tokens, 0.0, depths, layers).average(layers) for name, depths in LADDERS.items()}
        ladder = self.ladder if self.ladder != "auto" else "late" if floors["late"] <= target else "early"
        best = fit_schedule(lambda share: pyramid(n_tokens, share, LADDERS[ladder], layers), target, layers)
        reachable = ", ".join(f"ladder={name} needs {floor:.1f} or more" for name, floor in floors.items())
        return self.reached(best, target, layers, reachable)

    def prune_llm(self, context: LLMContext, keep: Tensor) -> Tensor:
        return context.top_k(context.last_attention(), keep)

    def metric_flops(self, n_tokens: int, shape: ModelShape) -> float:
        """One attention row per stage, over the tokens that are still there."""
        stages = self.schedule(n_tokens, shape.layers).before_stages()
        return sum(attention_score_flops(1, count, shape.hidden) for count in stages)
