"""Grid: every so-manieth token of the image, the baseline that spreads tokens evenly and looks at nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nuwa.pruners.base import Facts, Pruner, VisionContext, VisionDecision
from nuwa.pruners.pooling import cell_centres, near_squares, nearest_counts, pooled_grid
from nuwa.pruning.budget import Schedule, check_reached


@dataclass
class StridedGrid(Pruner):
    """The tokens under the cell centres of a smaller grid of near-square shape (`pooling` averages the same cells)."""

    name: ClassVar[str] = "grid"
    facts: ClassVar[Facts] = Facts(signal="place alone")

    def schedule(self, n_tokens: int, layers: int) -> Schedule:
        target = self.budget.tokens(n_tokens)
        options = nearest_counts(target, n_tokens)
        named = " or ".join(f"{count} ({h}x{w})" for count in sorted(options) for h, w in near_squares(count)[:1])
        return check_reached(self.name, Schedule(options[0]), target, layers, f"near-square grids have {named} tokens")

    def prune_vision(self, context: VisionContext, keep: int) -> VisionDecision:
        index = cell_centres(context.grid, pooled_grid(keep, context.grid)).to(context.features.device)
        return VisionDecision(index.expand(len(context.features), -1))
