"""Where an image's tokens sit: the spatial frame that pruning has to keep.

Shape letters: B images or rows, N tokens of a view, L tokens of a sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from nuwa.pruning.followers import CLOSING, add_followers
from nuwa.pruning.masks import left_pack

Grid = tuple[int, int]
"""(height, width) of a token grid."""
NEWLINES = ("one", "frame", "grid", "none")
"""Where newlines stand among the frames of a video."""


@dataclass(frozen=True)
class VisionView:
    """One grid of tokens of an image, e.g. the 24x24 patches of LLaVA-1.5.

    ``tokens`` (height * width,) holds, in raster order, each cell's index among the image's tokens;
    ``tiles`` is the (height, width) of the crops it was stitched from. A view may show several ``frames`` of one size,
    one below the other: its height is then theirs together.
    """

    grid: Grid
    tokens: Tensor
    tiles: Grid = (1, 1)
    frames: int = 1

    def in_prompt_order(self, cells: Tensor) -> Tensor:
        """The tokens of ``cells`` (K,) as the prompt has them, maybe tile by tile; of cells out of order, as given.

        >>> VisionView((2, 2), torch.tensor([0, 2, 1, 3])).in_prompt_order(torch.tensor([1, 2]))
        tensor([1, 2])
        """
        tokens = self.tokens[cells]
        return tokens if bool((cells.diff() <= 0).any()) else tokens.sort().values


@dataclass(frozen=True)
class ImageLayout:
    """How the placeholders of one visual in the prompt map to vision features: of a picture, or of several ``frames``.

    ``n_tokens`` placeholders stand for the image; ``source`` (n_tokens,) is the row of each among the image's vision
    features; ``views`` are the grids a method works on, those of one frame after those of another: a method for
    pictures sees every frame by itself, and frames of one size keep equal numbers.

    ``source`` is -1 for a follower, which is no vision feature (a newline between rows of patches): neither a patch nor
    text, no method chooses it and no budget counts it. ``group`` (n_tokens,) numbers the tokens that belong together,
    -1 for those that are alone: a follower stays exactly as long as any patch of its group does, one of the group
    `CLOSING` always, behind all others. None: no followers.

    ``size`` is the image's (height, width) in pixels where tiles depend on it; ``crop`` (n_tokens,) then numbers the
    crop in which the tower saw each patch (followers: any number), None where there is one, or features mix several.
    """

    n_tokens: int
    source: Tensor
    views: tuple[VisionView, ...]
    size: Grid | None = None
    crop: Tensor | None = None
    group: Tensor | None = None
    frames: int = 1

    @classmethod
    def single(cls, grid: Grid, frames: int = 1) -> ImageLayout:
        """The layout of one plain grid, or one in each of ``frames``: token i is patch i."""
        index = torch.arange(frames * grid[0] * grid[1])
        views = tuple(VisionView(grid, tokens) for tokens in index.chunk(frames))
        return cls(len(index), index, views, frames=frames)

    @classmethod
    def filmed(cls, grid: Grid, frames: int, newline: str = "one") -> ImageLayout:
        """As `single`, with newlines as followers, one of `NEWLINES`.

        ``one`` behind the last frame, which closes the video; one behind every ``frame``, or behind every row of every
        frame (``grid``); ``none``.

        >>> ImageLayout.filmed((1, 2), frames=2).group, ImageLayout.filmed((1, 2), frames=2, newline="frame").group
        (tensor([-1, -1, -1, -1, -2]), tensor([0, 0, 0, 1, 1, 1]))
        """
        plain = cls.single(grid, frames)
        if newline == "none":
            return plain
        rows = plain.source.view({"one": 1, "frame": frames, "grid": frames * grid[0]}[newline], -1)
        source = pad(rows, (0, 1), value=-1).flatten()
        group = torch.arange(len(rows)).repeat_interleave(rows.shape[1] + 1)
        if newline == "one":
            group = torch.full_like(source, -1).masked_fill(source < 0, CLOSING)
        views = (VisionView(grid, tokens) for tokens in (source >= 0).nonzero()[:, 0].chunk(frames))
        return cls(len(source), source, tuple(views), frames=frames, group=group)

    @property
    def patches(self) -> int:
        """Tokens that a method may choose from: all but the followers."""
        return sum(len(view.tokens) for view in self.views)

    def with_followers(self, kept: Tensor) -> Tensor:
        """The tokens (K,) of kept patches, in their order, and those that follow them, in their places.

        >>> rows = VisionView((2, 2), torch.tensor([0, 1, 3, 4]))
        >>> group = torch.tensor([0, 0, 0, 1, 1, 1])
        >>> layout = ImageLayout(6, torch.tensor([0, 1, -1, 2, 3, -1]), (rows,), group=group)
        >>> layout.with_followers(torch.tensor([1])), layout.with_followers(torch.tensor([3, 0]))
        (tensor([1, 2]), tensor([3, 0]))
        """
        if self.group is None:
            return kept
        keep = torch.zeros(1, self.n_tokens, dtype=torch.bool).index_fill(1, kept, True)
        order = torch.zeros(1, self.n_tokens, dtype=torch.long).index_copy(1, kept, torch.arange(len(kept))[None])
        place = torch.arange(self.n_tokens)[None]
        table = self.source[None] < 0, self.group[None], torch.zeros_like(place), place
        keep, order = add_followers(keep, order, *table, self.n_tokens)
        return left_pack(keep, order, int(keep.sum()))[0]

    def with_closing(self, kept: Tensor) -> Tensor:
        """The tokens (K,) of kept patches, and behind them those that close the image."""
        return kept if self.group is None else torch.cat([kept, (self.group == CLOSING).nonzero()[:, 0]])


def coordinates(grid: Grid, device: torch.device | None = None) -> Tensor:
    """Row and column of every cell in raster order, (N, 2) float32."""
    rows, columns = torch.meshgrid(
        *(torch.arange(size, device=device, dtype=torch.float) for size in grid), indexing="ij"
    )
    return torch.stack([rows, columns], -1).reshape(-1, 2)


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
