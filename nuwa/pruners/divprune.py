"""DivPrune (arXiv 2503.02175; code vbdi/divprune, commit 799e2d9): the most diverse tokens, before the LLM.

Greedy max-min selection over projected features: every pick is the token that is furthest, by cosine, from all picked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from nuwa.pruners.base import MethodInfo, Pruner, VisionContext, VisionDecision
from nuwa.pruning.budget import ModelShape, cosine_flops
from nuwa.pruning.tiling import AllAtOnce, Tiling


def nearest_similarity(direction: Tensor, chunk: int = 64) -> Tensor:
    """Cosine of each of N unit vectors (N, D) to its nearest neighbour (N,), in portions of ``chunk`` rows."""
    best = []
    for start in range(0, len(direction), chunk):
        rows = direction[start : start + chunk] @ direction.T
        rows.diagonal(start).fill_(float("-inf"))
        best.append(rows.amax(1))
    return torch.cat(best)


def max_min(features: Tensor, keep: int) -> Tensor:
    """Indices (keep,) of N features (N, D) in the order of picking.

    The first pick has the most distant nearest neighbour. One row of similarities is computed per pick, and picks stay
    on the device: a GPU that is asked for each of them would wait.
    """
    direction = functional.normalize(features.float(), dim=-1)
    picks = [nearest_similarity(direction).argmin(keepdim=True)]
    closest = direction @ direction.index_select(0, picks[0])[0]
    while len(picks) < keep:
        closest = closest.index_fill(0, picks[-1], float("inf"))
        picks.append(closest.argmin(keepdim=True))
        closest = torch.maximum(closest, direction @ direction.index_select(0, picks[-1])[0])
    return torch.cat(picks[:keep])


@dataclass
class DivPrune(Pruner):
    """Keep the tokens that are least like each other, in raster order; ids are renumbered, as in the release (PERC).

    ``tiles`` is about LLaVA-NeXT. The release chooses once, among the tokens of both grids and their newlines
    (``joint``; newlines leave: they are all one vector, of which the choice would take one at most). ``stitched``
    shares the tokens out between the grids by size.
    """

    tiles: Literal["joint", "stitched"] = "joint"

    name: ClassVar[str] = "divprune"
    native_position: ClassVar[str] = "perc"
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="arXiv 2503.02175",
        source="vbdi/divprune@799e2d9",
        signal="distance between projected features",
        counts="authors'",
    )

    @property
    def tiling(self) -> Tiling:
        return Tiling() if self.tiles == "stitched" or self.budget.full else AllAtOnce()

    def prune_vision(self, context: VisionContext, keep: int) -> VisionDecision:
        chosen = [max_min(image, keep).sort().values for image in context.project(context.features)]
        return VisionDecision(torch.stack(chosen))

    def metric_flops(self, n_tokens: int, shape: ModelShape) -> float:
        """All pairs for the first pick, one row for each pick."""
        kept = self.schedule(n_tokens, shape.layers).vision
        return cosine_flops(n_tokens, shape.hidden) + kept * n_tokens * shape.hidden
