"""How an image of several crops is shown to a method: stitched to grids, crop by crop, or as one set of tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nuwa.pruning.budget import share_out
from nuwa.pruning.layout import ImageLayout, VisionView
from nuwa.pruning.segments import Prompt, Segment


class Tiling:
    """Every view of an image by itself, tiles stitched to one view: what a method sees unless it asks for more."""

    def prepare_layout(self, layout: ImageLayout) -> ImageLayout:
        """The image with the views that the method believes it has."""
        return layout

    def views_to_prune(self, layout: ImageLayout) -> Sequence[VisionView]:
        """The grids that ``prune_vision`` is shown of an image, each by itself."""
        return layout.views

    def split_budget(self, total: int, views: Sequence[VisionView]) -> list[int]:
        """How many of ``total`` tokens each view of an image keeps: in proportion to its cells."""
        return share_out(total, [len(view.tokens) for view in views])

    def close_rows(self, view: VisionView, cells: Tensor) -> Tensor:
        """The tokens of the kept ``cells`` (K,) of a view, and the newlines that stay with them."""
        return view.closed(cells)

    def concat_views(self, kept: Sequence[Tensor]) -> Tensor:
        """The tokens of an image in the order in which the LLM sees them, from those (K,) of each of its views."""
        return torch.cat(list(kept))

    def rewrite_prompt(self, prompt: Prompt, segment: Segment, strategy: str) -> tuple[Prompt, Segment]:
        """The prompt and what enters layer 0 of it, as the method understands them: roles and position ids."""
        return prompt, segment


@dataclass(frozen=True)
class CropByCrop(Tiling):
    """Each crop by itself, without newlines, all crops keeping the same number of tokens.

    Tokens of the first crop, the whole image, come first, then those of the tiles as ``concat_tiles`` arranges them.
    Where tokens belong to no one crop (LLaVA-OneVision interpolates them), tiles are stitched as by default.
    """

    concat_tiles: Callable[[Sequence[Tensor]], Tensor]

    def views_to_prune(self, layout: ImageLayout) -> Sequence[VisionView]:
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
        return crops

    def split_budget(self, total: int, views: Sequence[VisionView]) -> list[int]:
        if any(view.newlines is not None for view in views):
            return super().split_budget(total, views)
        return even_shares(total, [len(view.tokens) for view in views])

    def concat_views(self, kept: Sequence[Tensor]) -> Tensor:
        if len(kept) < 3:
            return super().concat_views(kept)
        return torch.cat([kept[0], self.concat_tiles(kept[1:])])


class AllAtOnce(Tiling):
    """All tokens of an image of several views as one row, without newlines."""

    def views_to_prune(self, layout: ImageLayout) -> Sequence[VisionView]:
        if len(layout.views) == 1:
            return layout.views
        tokens = torch.cat([view.tokens for view in layout.views])
        return (VisionView((1, len(tokens)), tokens),)


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
