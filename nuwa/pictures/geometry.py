"""Where boxes lie on the grids of tokens that a model makes of a picture. Pure functions.

A box is (x0, y0, x1, y1) as fractions of a picture's width and height, from the top left.
"""

from __future__ import annotations

from collections.abc import Sequence

from transformers.image_processing_utils import select_best_resolution

from nuwa.benchmarks.scoring import Box
from nuwa.models.processors import PictureProcessor, Size, SquareProcessor, TiledProcessor
from nuwa.pruning.layout import Grid

WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


class BoxError(ValueError):
    """A box that no token can be found for."""


def view_frames(pictures: PictureProcessor, size: Size, views: int) -> list[Box]:
    """The part of a (width, height) picture that the grid of each of its views covers; beyond 0..1 it is padding."""
    if isinstance(pictures, SquareProcessor):
        return [_square_frame(pictures, *size)] * views
    if isinstance(pictures, TiledProcessor):
        return [WHOLE, _tiled_frame(pictures, *size)][:views]
    return [WHOLE] * views


def _square_frame(pictures: SquareProcessor, width: int, height: int) -> Box:
    """Padded to a square, or the square in its middle."""
    if getattr(pictures.pil, "do_pad", False):
        side = max(width, height)
    elif "shortest_edge" in pictures.pil.size:
        side = min(width, height)
    else:
        return WHOLE
    left, top = (width - side) / 2, (height - side) / 2
    return left / width, top / height, (left + side) / width, (top + side) / height


def _tiled_frame(pictures: TiledProcessor, width: int, height: int) -> Box:
    """The tiles' tokens are cut off at the picture's edges, but only whole rows and columns, the same on both sides."""
    high, wide = select_best_resolution((height, width), pictures.pil.image_grid_pinpoints)
    scale = min(wide / width, high / height)
    rows, columns = (pictures.side * pixels // pictures.tile for pixels in (high, wide))
    if width / height > columns / rows:
        rows -= (rows - int(round(height * (columns / width), 7))) // 2 * 2
    else:
        columns -= (columns - int(round(width * (rows / height), 7))) // 2 * 2
    patch = pictures.tile / pictures.side
    across, down = columns * patch / (width * scale), rows * patch / (height * scale)
    return (1 - across) / 2, (1 - down) / 2, (1 + across) / 2, (1 + down) / 2


def in_frame(box: Sequence[float], frame: Box) -> Box:
    """A box in fractions of the picture, as fractions of a part of it and cut at its edges.

    Raises:
        BoxError: the box is empty, or nothing of it lies in the picture, or in the frame.

    >>> in_frame((0.25, 0.2, 0.5, 0.4), (0.25, 0.0, 0.75, 1.0))
    (0.0, 0.2, 0.5, 0.4)
    """
    x0, y0, x1, y1 = box
    if not (x0 < x1 and y0 < y1):
        raise BoxError(f"box {tuple(box)} is empty")
    if x1 <= 0 or y1 <= 0 or x0 >= 1 or y0 >= 1:
        raise BoxError(f"box {tuple(box)} lies outside of the picture")
    wide, high = frame[2] - frame[0], frame[3] - frame[1]
    moved = ((x0 - frame[0]) / wide, (y0 - frame[1]) / high, (x1 - frame[0]) / wide, (y1 - frame[1]) / high)
    x0, y0, x1, y1 = (min(max(value, 0.0), 1.0) for value in moved)
    if x0 >= x1 or y0 >= y1:
        raise BoxError(f"box {tuple(box)} lies in a part of the picture that no token sees")
    return x0, y0, x1, y1


def center_patch(grid: Grid, box: Box) -> int:
    """The patch, counted row by row, that covers the centre of a box in fractions of the grid.

    >>> center_patch((2, 3), (0.4, 0.8, 0.6, 1.0))
    4
    """
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    rows, columns = grid
    return min(int(y * rows), rows - 1) * columns + min(int(x * columns), columns - 1)


def patches_in_box(grid: Grid, box: Box) -> list[int]:
    """The patches whose centre lies in a box, and the one at the box's centre, counted row by row.

    >>> patches_in_box((4, 4), (0.0, 0.0, 0.5, 0.5))
    [0, 1, 4, 5]
    """
    rows, columns = grid
    inside = {
        row * columns + column
        for row in range(rows)
        for column in range(columns)
        if box[0] <= (column + 0.5) / columns <= box[2] and box[1] <= (row + 0.5) / rows <= box[3]
    }
    return sorted(inside | {center_patch(grid, box)})
