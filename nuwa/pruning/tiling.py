"""How a visual of several crops or frames is shown to a method: grid by grid, crop by crop, frames or all at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nuwa.pruning.layout import ImageLayout, VisionView
from nuwa.pruning.schedules import share_out


class Tiling:
    """Every view of an image by itself, tiles stitched to one view: what a method sees unless it asks for more."""

    def views_to_prune(self, layout: ImageLayout) -> Sequence[VisionView]:
        """The grids that ``prune_vision`` is shown of an image, each by itself."""
        return layout.views

    def split_budget(self, total: int, layout: ImageLayout) -> list[int]:
        """How many of ``total`` tokens each of the `views_to_prune` keeps: in proportion to its cells."""
        return share_out(total, [len(view.tokens) for view in self.views_to_prune(layout)])

    def entering(self, layout: ImageLayout, kept: Sequence[Tensor]) -> Tensor:
        """What enters the LLM of an image, in order, where the patches ``kept`` (K,) of each of its views stay."""
        return layout.with_followers(torch.cat(list(kept)))


class ByTile(Tiling):
    """Stitched grids that share a budget by their tiles, whatever of these is padding."""

    def split_budget(self, total: int, layout: ImageLayout) -> list[int]:
        """The same number of tokens, rounded down, for every tile (the base view is one).

        Fewer tokens than tiles are shared out by cells.
        """
        views = self.views_to_prune(layout)
        tiles = [view.tiles[0] * view.tiles[1] for view in views]
        if total < sum(tiles):
            return super().split_budget(total, layout)
        return [min(total // sum(tiles) * count, len(view.tokens)) for count, view in zip(tiles, views, strict=True)]


@dataclass(frozen=True)
class CropByCrop(Tiling):
    """Each crop by itself, without followers, all crops keeping the same number of tokens.

    Tokens of the first crop, the whole image, come first, then those of the tiles as ``concat_tiles`` arranges them.
    Where tokens belong to no one crop (LLaVA-OneVision interpolates them), tiles are stitched as by default.
    """

    concat_tiles: Callable[[Sequence[Tensor]], Tensor]

    def views_to_prune(self, layout: ImageLayout) -> Sequence[VisionView]:
        """The crops of an image one by one; its views, where tokens belong to no one crop."""
        if layout.crop is None:
            return layout.views
        crops = []
        for view in layout.views:
            number = layout.crop[view.tokens]
            for crop in number.unique().tolist():
                cells = (number == crop).nonzero()[:, 0]
                width = int((cells // view.grid[1] == cells[0] // view.grid[1]).sum())
                crops.append(VisionView((len(cells) // width, width), view.tokens[cells]))
        return crops

    def split_budget(self, total: int, layout: ImageLayout) -> list[int]:
        views = self.views_to_prune(layout)
        if layout.crop is None:
            return super().split_budget(total, layout)
        return even_shares(total, [len(view.tokens) for view in views])

    def entering(self, layout: ImageLayout, kept: Sequence[Tensor]) -> Tensor:
        if layout.crop is None:
            return super().entering(layout, kept)
        return torch.cat([kept[0], self.concat_tiles(kept[1:])]) if len(kept) > 2 else torch.cat(list(kept))


class AllAtOnce(Tiling):
    """All tokens of an image of several views as one row, without followers."""

    def views_to_prune(self, layout: ImageLayout) -> Sequence[VisionView]:
        if len(layout.views) == 1:
            return layout.views
        tokens = torch.cat([view.tokens for view in layout.views])
        return (VisionView((1, len(tokens)), tokens),)

    def entering(self, layout: ImageLayout, kept: Sequence[Tensor]) -> Tensor:
        return layout.with_closing(torch.cat(list(kept)))


class FramesTogether(Tiling):
    """All frames of a visual as one grid, each below the one before it; a picture is a visual of one frame."""

    def views_to_prune(self, layout: ImageLayout) -> Sequence[VisionView]:
        if layout.frames == 1:
            return layout.views
        of_a_frame = len(layout.views) // layout.frames
        return [stacked(layout.views[view::of_a_frame]) for view in range(of_a_frame)]


def stacked(views: Sequence[VisionView]) -> VisionView:
    """Views of one size, one below the other.

    >>> stacked([VisionView((1, 2), torch.tensor([0, 1])), VisionView((1, 2), torch.tensor([2, 3]))]).grid
    (2, 2)
    """
    height, width = views[0].grid
    return VisionView((len(views) * height, width), torch.cat([view.tokens for view in views]), frames=len(views))


def even_shares(total: int, sizes: Sequence[int]) -> list[int]:
    """Divide ``total`` evenly, the first ones one more; what a size has no room for goes to the others.

    >>> even_shares(7, [576] * 5), even_shares(100, [576, 10, 4])
    ([2, 2, 1, 1, 1], [86, 10, 4])
    """
    shares = [0] * len(sizes)
    smallest_first = sorted(range(len(sizes)), key=lambda i: (sizes[i], -i))
    for done, i in enumerate(smallest_first):
        shares[i] = min(sizes[i], (total - sum(shares)) // (len(sizes) - done))
    return shares
