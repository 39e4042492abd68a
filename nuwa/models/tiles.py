"""Which tiles make a picture, told from their pixels.

InternVL, Idefics3 and SmolVLM cut a picture into tiles, in raster order, and let the whole picture in the size of a
tile follow; a picture of one tile stands alone. Their models are given tiles in a row and nothing that says where a
picture ends or how many tiles it is wide. The whole picture says both: it looks like its tiles from afar.

Shape letters: T tiles, S side of a tile in pixels, P side in cells of which only the mean colour counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from nuwa.pruning.layout import Grid

ALIKE = 0.1
"""The share of a picture's variance by which it may differ from its own tiles: both were resized."""
NOISE = 0.02
"""What pixels, normalised to a deviation of about one, may differ by anyway: rounded to bytes and half precision."""


def picture_grids(tiles: Tensor, patch: int) -> list[Grid]:
    """The (rows, columns) of tiles of each picture among ``tiles`` (T, 3, S, S), in order; cells are about a ``patch``.

    A picture of (1, 1) is one tile, any other ``rows * columns + 1``. Where several readings are possible, as of
    pictures of one colour, the one with the fewest pictures is taken.

    >>> whole = torch.rand(1, 3, 8, 16)
    >>> tiles = torch.cat([whole[..., :8], whole[..., 8:], avg_pool2d(whole, (1, 2))])
    >>> picture_grids(torch.cat([tiles, tiles[:1]]), patch=1)
    [(1, 2), (1, 1)]
    """
    cell = next(side for side in range(patch, 0, -1) if tiles.shape[-1] % side == 0)
    cells = avg_pool2d(tiles, cell).float().cpu()
    grids: list[Grid] = []
    first = 0
    while first < len(cells):
        grids.append(_first_grid(cells[first:]))
        first += tile_count(grids[-1])
    return grids


def tile_count(grid: Grid) -> int:
    """Tiles of a picture, the whole picture among them.

    >>> tile_count((1, 1)), tile_count((2, 3))
    (1, 7)
    """
    return grid[0] * grid[1] + (grid != (1, 1))


def placeholder_runs(placeholders: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Row, start and end (K,) of every run of ``placeholders`` (B, L) bool.

    >>> placeholder_runs(torch.tensor([[False, True, True, False, True]]))
    (tensor([0, 0]), tensor([1, 4]), tensor([3, 5]))
    """
    edges = pad(placeholders.long(), (1, 1)).diff()
    (rows, starts), (_, ends) = (edges.eq(sign).nonzero().T for sign in (1, -1))
    return rows, starts, ends


def check_sizes(rows: Tensor, found: Tensor, batch: int, sizes: Sequence[int]) -> None:
    """Refuse prompts whose pictures are not those of the pixels, of ``sizes`` tokens; rows may be repeated.

    ``rows`` and ``found`` (K,): the row, one of ``batch``, and the tokens of each picture in the prompts.

    Raises:
        ValueError: they differ.
    """
    counts = rows.bincount(minlength=batch).tolist()
    copies = sum(counts) // len(sizes) or 1
    if torch.cat(found.split(counts)[::copies]).tolist() != list(sizes):
        raise ValueError(
            f"the prompts hold pictures of {found.tolist()} tokens, the pixels look like pictures of {list(sizes)}: a "
            "whole picture must follow its tiles, and pictures of one colour, which look alike, need calls of their own"
        )


def _first_grid(cells: Tensor) -> Grid:
    """The grid of the picture that the first of the cells (T, 3, P, P) belong to: the largest that fits."""
    variance = cells.var((2, 3), correction=0).mean(1)
    allowed = NOISE**2 + ALIKE * variance
    # the mean colour of a picture is that of its tiles
    colours = cells.mean((2, 3))
    means = colours.cumsum(0) / torch.arange(1, len(cells) + 1)[:, None]
    near = ((means[:-1] - colours[1:]) ** 2).mean(1) <= allowed[1:]
    for count in reversed((near.nonzero()[:, 0] + 1).tolist()):
        if count == 1:
            break
        errors = {grid: _difference(cells[:count], cells[count], grid) for grid in _grids_of(count)}
        best = min(errors, key=lambda grid: errors[grid])
        if errors[best] <= allowed[count]:
            return best
    return 1, 1


def _grids_of(count: int) -> Iterator[Grid]:
    """All (rows, columns) of ``count`` tiles, those nearest to a square first."""
    pairs = [(rows, count // rows) for rows in range(1, count + 1) if count % rows == 0]
    return iter(sorted(pairs, key=lambda grid: abs(grid[0] - grid[1])))


def _difference(cells: Tensor, whole: Tensor, grid: Grid) -> float:
    """Mean squared difference between ``whole`` (3, P, P) and the cells (T, 3, P, P) of a grid, shrunk to it."""
    side = cells.shape[-1]
    stitched = cells.unflatten(0, grid).permute(2, 0, 3, 1, 4).reshape(1, 3, grid[0] * side, grid[1] * side)
    return float(((avg_pool2d(stitched, grid)[0] - whole) ** 2).mean())
