"""Pooling: adaptive average pooling of the token grid, the baseline that treats all places alike.

The paper reports it without code; sizes are ours: 8x8, 8x16 and 12x16 for average 64, 128 and 192.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from nuwa.pruners.base import MethodInfo, Pruner, VisionContext, VisionDecision
from nuwa.pruning.layout import Grid
from nuwa.pruning.merging import soft_members
from nuwa.pruning.schedules import Schedule


def near_squares(count: int) -> list[Grid]:
    """All (height, width) with height * width == count and neither more than twice the other, flattest first."""
    heights = range(1, math.isqrt(2 * count) + 1)
    return [(h, count // h) for h in heights if count % h == 0 and count // h <= 2 * h]


def pooled_grid(count: int, grid: Grid) -> Grid:
    """The near-square grid of ``count`` cells that is closest in shape to ``grid`` and fits into it.

    Where none fits (a share of an image's views, a very flat view), the one with the nearest number of cells among
    those at most twice as long or as wide as ``grid`` for their size.
    """
    if count == grid[0] * grid[1]:
        return grid

    def stretch(size: Grid) -> float:
        sides = size[0] * grid[1], size[1] * grid[0]
        return max(sides) / min(sides)

    fitting = [(h, w) for h, w in near_squares(count) if h <= grid[0] and w <= grid[1]]
    if not fitting:
        sizes = product(range(1, grid[0] + 1), range(1, grid[1] + 1))
        shaped = [size for size in sizes if stretch(size) <= 2]
        nearest = min(abs(h * w - count) for h, w in shaped)
        fitting = [(h, w) for h, w in shaped if abs(h * w - count) == nearest]
    return min(fitting, key=stretch)


def pool(features: Tensor, grid: Grid, size: Grid) -> Tensor:
    """Adaptive average pooling of raster tokens: (B, N, D) -> (B, height * width of ``size``, D)."""
    image = features.float().unflatten(1, grid).permute(0, 3, 1, 2)
    return functional.adaptive_avg_pool2d(image, size).flatten(2).mT.to(features.dtype)


def cell_centres(grid: Grid, size: Grid) -> Tensor:
    """The raster index of the token under each pooled cell's centre (rounded down), (height * width of ``size``,)."""
    rows, columns = ((2 * torch.arange(s) + 1) * g // (2 * s) for g, s in zip(grid, size, strict=True))
    return (rows[:, None] * grid[1] + columns).flatten()


def pooling_weights(grid: Grid, size: Grid) -> Tensor:
    """The share that each pooled cell takes of every token: (cells, N). Cells of sides that do not divide share tokens.

    >>> pooling_weights((1, 3), (1, 2))
    tensor([[0.5000, 0.5000, 0.0000],
            [0.0000, 0.5000, 0.5000]])
    """
    sides = []
    for cells, pooled in zip(grid, size, strict=True):
        cell, index = torch.arange(cells), torch.arange(pooled)[:, None]
        inside = (cell * pooled < (index + 1) * cells) & ((cell + 1) * pooled > index * cells)
        sides.append(inside / inside.sum(1, keepdim=True))
    return torch.kron(*sides)


class GridPruner(Pruner):
    """Base of methods that make a smaller grid of near-square shape."""

    counts_by_itself: ClassVar[bool] = True

    def reachable_counts(self, count: float, n_tokens: int) -> list[int]:
        """The counts of near-square grids below and above ``count`` (itself, if it is one), nearest first.

        The grid of all ``n_tokens`` counts as one, whatever its shape.
        """
        below = next((size for size in range(math.floor(count), 0, -1) if near_squares(size)), 1)
        above = next((size for size in range(math.ceil(count), n_tokens + 1) if near_squares(size)), n_tokens)
        return sorted({below, above}, key=lambda size: (abs(size - count), size))

    def schedule(self, n_tokens: int, layers: int) -> Schedule:
        """One count: that of a near-square grid if the budget is absolute.

        A share of the image (or all of it) is taken as it is: every view then comes as close as its shape allows.
        """
        target = self.budget.tokens(n_tokens)
        if self.budget.average is None:
            return Schedule(max(1, round(target)))
        options = self.reachable_counts(target, n_tokens)
        named = " or ".join(f"{count} ({h}x{w})" for count in sorted(options) for h, w in near_squares(count)[:1])
        return self.reached(Schedule(options[0]), target, layers, f"near-square grids have {named} tokens")

    def prune_vision(self, context: VisionContext, keep: int) -> VisionDecision:
        """The tokens under the cell centres of the smaller grid."""
        index = cell_centres(context.grid, pooled_grid(keep, context.grid)).to(context.features.device)
        return VisionDecision(index.expand(len(context.features), -1))


@dataclass
class Pooling(GridPruner):
    """Pool the grid to a smaller one of near-square shape; a pooled token sits at the centre of its cell."""

    name: ClassVar[str] = "pooling"
    native_position: ClassVar[str] = "perc"
    info: ClassVar[MethodInfo] = MethodInfo(signal="place alone", merges=True, counts="ours: near-square grids")

    def prune_vision(self, context: VisionContext, keep: int) -> VisionDecision:
        size, images = pooled_grid(keep, context.grid), len(context.features)
        kept, pooled = super().prune_vision(context, keep).keep, pool(context.features, context.grid, size)
        weights = pooling_weights(context.grid, size).to(pooled.device).expand(images, -1, -1)
        return VisionDecision(kept, pooled, {}, **soft_members(weights, kept))
