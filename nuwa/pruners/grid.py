"""Grid: every so-manieth token of the image, the baseline that spreads tokens evenly and looks at nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nuwa.pruners.base import MethodInfo, VisionContext, VisionDecision
from nuwa.pruners.pooling import GridPruner, cell_centres, pooled_grid


@dataclass
class StridedGrid(GridPruner):
    """The tokens under the cell centres of a smaller grid of near-square shape (`pooling` averages the same cells)."""

    name: ClassVar[str] = "grid"
    info: ClassVar[MethodInfo] = MethodInfo(
        signal="place alone",
        counts="ours: near-square grids",
    )

    def prune_vision(self, context: VisionContext, keep: int) -> VisionDecision:
        index = cell_centres(context.grid, pooled_grid(keep, context.grid)).to(context.features.device)
        return VisionDecision(index.expand(len(context.features), -1))
