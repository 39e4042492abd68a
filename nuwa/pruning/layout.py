"""Where an image's tokens sit: the spatial frame that pruning has to keep.

Shape letters: B images or rows, N tokens of a view, L tokens of a sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Grid = tuple[int, int]
"""(height, width) of a token grid."""


@dataclass(frozen=True)
class VisionView:
    """One grid of tokens of an image, e.g. the 24x24 patches of LLaVA-1.5.

    ``tokens`` (height * width,) holds, in raster order, each cell's index among the image's tokens;
    ``newlines`` (height,) the index of the placeholder that closes each row, None where rows are not closed. ``tiles``
    is the (height, width) of the crops it was stitched from. A method that sees a view of its own (`Pruner.arrange`)
    gives ``rows`` (height * width,), its rows among the image's vision features; cells without a token are -1.
    """

    grid: Grid
    tokens: Tensor
    newlines: Tensor | None = None
    tiles: Grid = (1, 1)
    rows: Tensor | None = None

    def closed(self, kept: Tensor, every_row: bool = False) -> Tensor:
        """The tokens of ``kept`` cells (K,), each row that still has one (or ``every_row``) closed by its newline.

        Cells in raster order are closed in the order of the prompt, which may go tile by tile. Cells out of it form no
        rows: their newlines leave.
        """
        tokens, width = self.tokens.to(kept.device)[kept], self.grid[1]
        raster = not bool((kept.diff() <= 0).any())
        if raster and self.newlines is not None:
            rows = torch.arange(self.grid[0], device=kept.device) if every_row else (kept // width).unique()
            place = torch.cat([kept // width * (width + 1) + kept % width, rows * (width + 1) + width])
            tokens = torch.cat([tokens, self.newlines.to(kept.device)[rows]])[place.argsort()]
        elif raster:
            tokens = tokens.sort().values
        return tokens[tokens >= 0]


@dataclass(frozen=True)
class ImageLayout:
    """How the placeholders of one image in the prompt map to vision features.

    ``n_tokens`` placeholders stand for the image; ``source`` (n_tokens,) is the row of each among the image's vision
    features (-1: a newline, which is no vision feature); ``views`` are the grids a method works on.

    A newline is neither a patch nor text: no method chooses it and no budget counts it. It stays, in its place, exactly
    as long as any token of its row does.

    ``size`` is the image's (height, width) in pixels where tiles depend on it; ``crop`` (n_tokens,) then numbers the
    crop in which the tower saw each patch (newlines: any number), None where there is one crop or features mix several.
    """

    n_tokens: int
    source: Tensor
    views: tuple[VisionView, ...]
    size: Grid | None = None
    crop: Tensor | None = None

    @classmethod
    def single(cls, grid: Grid) -> ImageLayout:
        """The layout of one plain grid: token i is patch i."""
        index = torch.arange(grid[0] * grid[1])
        return cls(len(index), index, (VisionView(grid, index),))

    @property
    def patches(self) -> int:
        """Tokens that a method may choose from: all but the newlines."""
        return sum(len(view.tokens) for view in self.views)

    @property
    def closed_by(self) -> Tensor:
        """(n_tokens,): the newline that closes each token's row (a newline closes its own), -1 where none does.

        >>> rows = VisionView((2, 2), torch.tensor([0, 1, 3, 4]), newlines=torch.tensor([2, 5]))
        >>> ImageLayout(6, torch.tensor([0, 1, -1, 2, 3, -1]), (rows,)).closed_by
        tensor([2, 2, 2, 5, 5, 5])
        """
        closed_by = torch.full((self.n_tokens,), -1)
        for view in self.views:
            if view.newlines is not None:
                there, newlines = view.tokens >= 0, view.newlines[view.newlines >= 0]
                closed_by[view.tokens[there]] = view.newlines.repeat_interleave(view.grid[1])[there]
                closed_by[newlines] = newlines
        return closed_by


def coordinates(grid: Grid, device: torch.device | None = None) -> Tensor:
    """Row and column of every cell in raster order, (N, 2) float32."""
    rows, columns = torch.meshgrid(
        torch.arange(grid[0], device=device), torch.arange(grid[1], device=device), indexing="ij"
    )
    return torch.stack([rows, columns], -1).reshape(-1, 2).float()


def window_order(grids: Sequence[Sequence[int]], window: int) -> Tensor:
    """Where the tower keeps each token of images of (frames, rows, columns) tokens: (N,) places, raster order.

    Windows of ``window`` x ``window`` tokens follow each other in raster order, and so do the tokens of a window.
    """
    places, start = [], 0
    for frames, rows, columns in grids:
        frame, row, column = torch.meshgrid(*map(torch.arange, (frames, rows, columns)), indexing="ij")
        across, down = -(-columns // window), -(-rows // window)
        tile = (frame * down + row // window) * across + column // window
        inside = row % window * window + column % window
        places.append((tile * window**2 + inside).flatten().argsort().argsort() + start)
        start += frames * rows * columns
    return torch.cat(places)
