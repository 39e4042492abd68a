"""Methods that are shown LLaVA-NeXT's tiles one by one, as their authors' code does, which prunes crop by crop.

The whole image in one crop, and each tile, keep the same number of tokens, and no newline enters the LLM. (In that code
the padding of tiles takes part; here it has no tokens, and only what of a tile is not padding is shown.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from nuwa.pruners.base import Pruner
from nuwa.pruning.tiling import CropByCrop, Tiling


@dataclass
class TileByTile(Pruner):
    """Base of methods whose authors prune crop by crop; ``tiles="stitched"`` shows them two grids, as Nüwa sees them.

    A budget is an image's: of 640 tokens each of five crops keeps the authors' 128, each of four 160. Tokens of tiles
    reach the LLM after those of the first crop, in raster order of the stitched image; of methods whose tokens have
    another order (not ``in_raster_order``), tile by tile. ``metric_flops`` counts crops as one grid: at most that.
    """

    tiles: Literal["each", "stitched"] = field(default="each", kw_only=True)

    in_raster_order: ClassVar[bool] = True

    @property
    def tiling(self) -> Tiling:
        return Tiling() if self.tiles == "stitched" or self.budget.full else CropByCrop(self.concat_tiles)

    def concat_tiles(self, tiles: Sequence[Tensor]) -> Tensor:
        """The tokens of an image's tiles in the order in which the LLM sees them, from those (K,) of each tile."""
        together = torch.cat(list(tiles))
        return together.sort().values if self.in_raster_order else together
