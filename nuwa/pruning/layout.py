"""Where an image's tokens sit: the spatial frame that pruning has to keep.

Shape letters: B images or rows, N tokens of a view, L tokens of a sequence.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

Grid = tuple[int, int]
"""(height, width) of a token grid."""


@dataclass(frozen=True)
class VisionView:
    """One grid of tokens of an image, e.g. the 24x24 patches of LLaVA-1.5.

    ``tokens`` (height * width,) holds, in raster order, each cell's index among the image's tokens in the prompt.
    """

    grid: Grid
    tokens: Tensor


@dataclass(frozen=True)
class ImageLayout:
    """How the placeholders of one image in the prompt map to vision features.

    ``n_tokens`` placeholders stand for the image; ``source`` (n_tokens,) is the row of each among the image's vision
    features (-1: not a vision feature, e.g. a newline); ``views`` are the grids a method works on.
    """

    n_tokens: int
    source: Tensor
    views: tuple[VisionView, ...]

    @classmethod
    def single(cls, grid: Grid) -> ImageLayout:
        """The layout of one plain grid: token i is patch i."""
        index = torch.arange(grid[0] * grid[1])
        return cls(len(index), index, (VisionView(grid, index),))

    def same_as(self, other: ImageLayout) -> bool:
        """Whether two images can share one batched call."""
        return self.n_tokens == other.n_tokens and [v.grid for v in self.views] == [v.grid for v in other.views]


def coordinates(grid: Grid, device: torch.device | None = None) -> Tensor:
    """Row and column of every cell in raster order, (N, 2) float32."""
    rows, columns = torch.meshgrid(
        torch.arange(grid[0], device=device), torch.arange(grid[1], device=device), indexing="ij"
    )
    return torch.stack([rows, columns], -1).reshape(-1, 2).float()
