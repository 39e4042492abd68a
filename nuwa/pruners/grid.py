"""Grid: every so-manieth token of the image, the baseline that spreads tokens evenly and looks at nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nuwa.pruners.base import MethodInfo
from nuwa.pruners.pooling import GridPruner


@dataclass
class StridedGrid(GridPruner):
    """The tokens under the cell centres of a smaller grid of near-square shape (`pooling` averages the same cells)."""

    name: ClassVar[str] = "grid"
    info: ClassVar[MethodInfo] = MethodInfo(signal="place alone", counts="ours: near-square grids")
