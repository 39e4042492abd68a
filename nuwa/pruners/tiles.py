"""How methods are shown the tiles of LLaVA-NeXT: as one stitched grid, one by one, or all tokens as one set.

Nüwa stitches tiles. The other methods' released code prunes what the vision tower returns, crop by crop: the whole
image in one crop, and each tile, keep the same number of tokens, and no newline enters the LLM. (There the padding of
tiles takes part; here it has no tokens, and only what of a tile is not padding is shown.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from nuwa.pruners.base import Pruner, require
from nuwa.pruning.layout import ImageLayout, VisionView


def by_crop(layout: ImageLayout) -> tuple[VisionView, ...]:
    """The crops of an image one by one, without newlines; its views, where tokens belong to no one crop."""
    if layout.crop is None:
        return layout.views
    crops = []
    for view in layout.views:
        number = layout.crop[view.tokens]
        for crop in number.unique().tolist():
            cells = (number == crop).nonzero()[:, 0]
            width = int((cells // view.grid[1] == cells[0] // view.grid[1]).sum())
            crops.append(replace(view, grid=(len(cells) // width, width), tokens=view.tokens[cells], newlines=None))
    return tuple(crops)


def whole(layout: ImageLayout) -> tuple[VisionView, ...]:
    """All tokens of an image as one row, without newlines."""
    tokens = torch.cat([view.tokens for view in layout.views])
    return (VisionView((1, len(tokens)), tokens),)


def even_shares(total: int, sizes: Sequence[int]) -> list[int]:
    """Divide ``total`` evenly, the first ones one more; what a size has no room for goes to the others."""
    shares = [0] * len(sizes)
    smallest_first = sorted(range(len(sizes)), key=lambda i: (sizes[i], -i))
    for done, i in enumerate(smallest_first):
        shares[i] = min(sizes[i], (total - sum(shares)) // (len(sizes) - done))
    return shares


@dataclass
class TileByTile(Pruner):
    """Base of methods whose authors prune crop by crop; ``tiles="stitched"`` shows them two grids, as Nüwa.

    A budget is an image's: of 640 tokens each of five crops keeps the authors' 128, each of four 160. Tokens of tiles
    reach the LLM after those of the first crop, in raster order of the stitched image; of methods whose tokens have
    another order (not ``in_raster_order``), tile by tile. ``metric_flops`` counts crops as one grid: at most that.
    """

    tiles: Literal["each", "stitched"] = field(default="each", kw_only=True)

    in_raster_order: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.tiles in ("each", "stitched"), "tiles", "each or stitched", self.tiles)

    def pieces(self, layout: ImageLayout) -> Sequence[VisionView]:
        return layout.views if self.tiles == "stitched" or self.budget.full else by_crop(layout)

    def shares(self, total: int, pieces: Sequence[VisionView]) -> list[int]:
        """Each crop keeps the same number of tokens; stitched grids, whose rows have newlines, as by default."""
        if any(piece.newlines is not None for piece in pieces):
            return super().shares(total, pieces)
        return even_shares(total, [len(piece.tokens) for piece in pieces])

    def join(self, kept: Sequence[Tensor]) -> Tensor:
        if self.tiles == "stitched" or len(kept) < 3:
            return super().join(kept)
        return self.join_crops(*kept)

    def join_crops(self, first: Tensor, *tiles: Tensor) -> Tensor:
        """`join` for the first crop and two tiles or more."""
        together = torch.cat(tiles)
        return torch.cat([first, together.sort().values if self.in_raster_order else together])
