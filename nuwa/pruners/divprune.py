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
from nuwa.pruning.flops import ModelShape, cosine_flops
from nuwa.pruning.tiling import AllAtOnce, Tiling


def nearest_similarity(direction: Tensor, chunk: int = 64) -> Tensor:
    """Cosine of each of N unit vectors (..., N, D) to its nearest neighbour (..., N), in portions of ``chunk`` rows."""
    best = []
    for start, part in zip(range(0, direction.shape[-2], chunk), direction.split(chunk, -2), strict=True):
        rows = part @ direction.mT
        rows.diagonal(start, -2, -1).fill_(float("-inf"))
        best.append(rows.amax(-1))
    return torch.cat(best, -1)


def max_min(features: Tensor, keep: int) -> Tensor:
    """Indices (..., keep) of N features (..., N, D) in the order of picking, for all images at once.

    The first pick has the most distant nearest neighbour. One row of similarities is computed per pick, and picks stay
    on the device: a GPU that is asked for each of them would wait.
    """
    direction = functional.normalize(features.float(), dim=-1)
    picks = [nearest_similarity(direction).argmin(-1, keepdim=True)]
    closest = similarity_to(direction, picks[0])
    while len(picks) < keep:
        closest = closest.scatter(-1, picks[-1], float("inf"))
        picks.append(closest.argmin(-1, keepdim=True))
        closest = torch.maximum(closest, similarity_to(direction, picks[-1]))
    return torch.cat(picks[:keep], -1)


def similarity_to(direction: Tensor, pick: Tensor) -> Tensor:
    """Dot products (..., N) of all vectors (..., N, D) with the one at ``pick`` (..., 1)."""
    picked = direction.gather(-2, pick[..., None].expand(*pick.shape, direction.shape[-1]))
    return (picked @ direction.mT)[..., 0, :]


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
        return VisionDecision(max_min(context.project(context.features), keep).sort(dim=1).values)

    def metric_flops(self, n_tokens: int, shape: ModelShape) -> float:
        """All pairs for the first pick, one row for each pick."""
        kept = self.schedule(n_tokens, shape.layers).vision
        return cosine_flops(n_tokens, shape.hidden) + kept * n_tokens * shape.hidden
