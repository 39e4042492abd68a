"""Grid: every so-manieth token of the image, the baseline that spreads tokens evenly and looks at nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nuwa.pruners.base import Facts, Pruner, VisionContext, VisionDecision
from nuwa.pruners.pooling import cell_centres, grid_schedule, pooled_grid
from nuwa.pruning.budget import Schedule


@dataclass
class StridedGrid(Pruner):
    """The tokens under the cell centres of a smaller grid of near-square shape (`pooling` averages the same cells)."""

    name: ClassVar[str] = "grid"
    facts: ClassVar[Facts] = Facts(
        signal="place alone",
        counts="ours: near-square grids",
    )

    def schedule(self, n_tokens: int, layers: int) -> Schedule:
        return grid_schedule(self, n_tokens, layers)

    def prune_vision(self, context: VisionContext, keep: int) -> VisionDecision:
        index = cell_centres(context.grid, pooled_grid(keep, context.grid)).to(context.features.device)
        return VisionDecision(index.expand(len(context.features), -1))
