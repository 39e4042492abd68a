"""FEATHER (arXiv 2412.13180; code markendo/FEATHER, commit c2a09b2): attention without rotary bias, plus a grid.

FastV's choice leans to the bottom of the image, because rotary embeddings favour late tokens. FEATHER scores with the
un-rotated queries and keys of the layer before, adds a strided grid at its first stage, and prunes again deeper.
"""

from __future__ import annotations

import math
from collections.abc import Set
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from nuwa.pruners.base import LLMContext, MethodInfo, Pruner, require
from nuwa.pruning.flops import ModelShape, attention_score_flops
from nuwa.pruning.layout import Grid
from nuwa.pruning.schedules import Schedule, fit_schedule, staged

_LADDERS = {"late": (1 / 4, 1 / 2), "early": (1 / 16, 1 / 4)}
"""Depths of both stages: the authors' layers 8 and 16 of 32, and 2 and 8 for budgets that these cannot reach."""


def on_grid(grid: Grid, stride: int) -> Tensor:
    """Tokens whose row and column are multiples of ``stride``: (N,) bool."""
    rows, columns = (torch.arange(side) % stride == 0 for side in grid)
    return (rows[:, None] & columns).flatten()


def unrotated_scores(context: LLMContext) -> Tensor:
    """Attention of the last token in this layer, un-rotated, softmax over each image alone: (B, L)."""
    score = torch.zeros(context.image.shape, device=context.hidden.device)
    for ordinal in range(max(map(len, context.ids))):
        mine = context.image == ordinal
        score = torch.where(mine, context.last_attention(rotary=False, among=mine), score)
    return score


@dataclass
class Feather(Pruner):
    """Keep an even grid and what the last token attends to most without rotary bias, then prune again deeper.

    ``stride`` is that of the grid, the authors' 3.

    The release keeps a share 1 - r by attention and the grid besides, so that the number of tokens depends on how many
    are in both. Here the number is fixed: the whole grid, then the best others; it is the same set as the release's
    whenever the numbers agree. Stage 2 keeps (1 - r)^2 of the survivors, grid tokens competing like all others (a
    comment in the release says otherwise, its code does this). The stages move to an earlier ladder for budgets that
    the authors' layers cannot reach.
    """

    stride: int = 3

    name: ClassVar[str] = "feather"
    needs: ClassVar[Set[str]] = {"previous", "first"}
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="arXiv 2412.13180",
        source="markendo/FEATHER@c2a09b2",
        signal="attention of the last prompt token without rotary embeddings, and a grid",
        text_aware=True,
        counts="ours: solved for the average (authors: r of 0.7 and 0.75)",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.stride >= 1, "stride", "1 token or more", self.stride)

    def schedule(self, n_tokens: int, layers: int) -> Schedule:
        target = self.budget.tokens(n_tokens)
        grid = math.ceil(math.sqrt(n_tokens) / self.stride) ** 2

        def make(share: float, depths: tuple[float, ...]) -> Schedule:
            first = min(n_tokens, max(1, round(n_tokens * share + grid * (1 - share))))
            return staged(n_tokens, depths, (first, max(1, round(first * share**2))), layers)

        floors = {name: make(0.0, depths).average(layers) for name, depths in _LADDERS.items()}
        ladder = "late" if floors["late"] <= target else "early"
        best = fit_schedule(lambda share: make(share, _LADDERS[ladder]), target, layers)
        reachable = f"with a grid of {grid} tokens it needs {floors['early']:.1f} or more"
        return self.reached(best, target, layers, reachable)

    def prune_llm(self, context: LLMContext, keep: Tensor) -> Tensor:
        return context.top_k(unrotated_scores(context.previous), keep, first=self._grid_tokens(context))

    def _grid_tokens(self, context: LLMContext) -> Tensor:
        """The grid of every image of which nothing has left inside the LLM yet: (B, L) bool."""
        sizes = [layout.n_tokens for row in context.layouts for layout in row]
        table = torch.zeros(len(context.layouts), len(context.member), max(sizes), dtype=torch.bool)
        for row, layouts in enumerate(context.layouts):
            for ordinal, layout in enumerate(layouts):
                cells = torch.cat([view.tokens[on_grid(view.grid, self.stride)] for view in layout.views])
                table[row, ordinal, cells[cells >= 0]] = True
        whole = (context.member.sum(2) == context.first.member.sum(2)).T
        table = table.to(whole.device) & whole[..., None]
        image, token = context.image.clamp_min(0), context.token.clamp_min(0)
        return context.visual & table.flatten(1).gather(1, image * table.shape[2] + token)

    def metric_flops(self, n_tokens: int, shape: ModelShape) -> float:
        """One attention row per stage."""
        stages = self.schedule(n_tokens, shape.layers).before_stages()
        return sum(attention_score_flops(1, count, shape.hidden) for count in stages)
