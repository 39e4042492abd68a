"""Windows of a vision tower: the order in which it keeps the tokens of an image. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


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
