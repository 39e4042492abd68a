"""Downsample: show the vision tower a smaller image, the baseline that any pruning of a larger one has to beat.

The tower sees fewer patches, its position embeddings interpolated to them, and so costs less as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from nuwa.pruners.base import MethodInfo, MisfitError, Tower, VisionContext, VisionDecision
from nuwa.pruners.pooling import GridPruner, pooled_grid
from nuwa.pruning.layout import Grid


@dataclass
class Downsample(GridPruner):
    """Shrink the image to a near-square grid of patches; a token sits at the centre of what it covers.

    Needs a model with one fixed image size; where resolution is dynamic, ask its processor for fewer pixels instead.
    """

    name: ClassVar[str] = "downsample"
    native_position: ClassVar[str] = "perc"
    info: ClassVar[MethodInfo] = MethodInfo(signal="none: a smaller image", counts="ours: near-square grids")

    def check_tower(self, tower: Tower) -> None:
        if tower.grid is None:
            raise MisfitError(
                "pruner downsample needs a model with one fixed image size; here, let the processor make images smaller"
            )

    def image_grid(self, grid: Grid | None, layers: int) -> Grid | None:
        if grid is None:
            return None
        size = pooled_grid(self.schedule(grid[0] * grid[1], layers).vision, grid)
        return None if size == grid else size

    def prune_vision(self, context: VisionContext, keep: int) -> VisionDecision:
        """The features are those of the small image already; they take the places of its cells."""
        decision = super().prune_vision(context, keep)
        return decision if keep == math.prod(context.grid) else replace(decision, features=context.features)
