"""Panels of a picture under a grid of tokens: what stays, in which role, which regions, links, boxes and ids.

Roles differ in colour (Okabe and Ito's, which any kind of colour vision tells apart) and in shape: kept patches have a
thin blue frame, collectors a green one with a dot, pillars a thick orange one, coordinates a cross. Dropped patches are
faded.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from PIL import Image, ImageDraw, ImageOps

from nuwa.benchmarks.scoring import Box
from nuwa.pictures.text import INK, LINE_HEIGHT, Phrase, text_block
from nuwa.pruning.layout import Grid

KEPT, COLLECTOR, PILLAR, COORDINATE = "#0072B2", "#009E73", "#E69F00", "#56B4E9"
LINK, MOVED, TRUE_BOX, PREDICTED = "#CC79A7", "#D55E00", "#FFFFFF", "#D55E00"
_PADDING = "#7F7F7F"
PANEL_SIDE, SMALLEST_PATCH, GAP = 576, 12, 16
"""Pixels: of a panel's longer side, of a patch at least (of very long pictures), between panels."""
_NARROWEST = 7 * LINE_HEIGHT
STRONGEST = 24
"""How many links of a collector are drawn, the strongest."""


class Panel:
    """The part ``frame`` of a picture under a grid; things are drawn on it by patch, or in fractions of the grid."""

    def __init__(self, picture: Image.Image, frame: Box, grid: Grid, caption: str, faded: bool = True) -> None:
        self.grid, self.patch = grid, max(SMALLEST_PATCH, PANEL_SIDE // max(grid))
        self.size = (grid[1] * self.patch, grid[0] * self.patch)
        extent = tuple(value * side for value, side in zip(frame, picture.size * 2, strict=True))
        self.clear = picture.convert("RGB").transform(
            self.size, Image.Transform.EXTENT, extent, Image.Resampling.BICUBIC, fillcolor=_PADDING
        )
        self.image = fade(self.clear) if faded else self.clear.copy()
        self.caption = caption

    def box_of(self, patch: int) -> tuple[int, int, int, int]:
        """Pixels (x0, y0, x1, y1) of a patch, the last ones excluded."""
        row, column = divmod(patch, self.grid[1])
        return column * self.patch, row * self.patch, (column + 1) * self.patch, (row + 1) * self.patch

    def center_of(self, row: float, column: float) -> tuple[float, float]:
        """Pixel at the centre of the patch in a row and column; columns behind the last stay at the edge."""
        return min((column + 0.5) * self.patch, self.size[0] - 2), (row + 0.5) * self.patch

    def keep(
        self,
        patches: Sequence[int],
        pillars: Sequence[int] | None,
        collectors: Sequence[int] | None,
        coordinates: Sequence[int] = (),
    ) -> None:
        """Show patches as they are, framed by their role, those that stay in any case with a cross."""
        for patch in patches:
            box = self.box_of(patch)
            self.image.paste(self.clear.crop(box), box[:2])
        draw = ImageDraw.Draw(self.image)
        for patch in patches:
            x0, y0, x1, y1 = self.box_of(patch)
            inside = x0, y0, x1 - 1, y1 - 1
            if patch in (pillars or ()):
                mark_pillar(draw, inside)
            elif patch in (collectors or ()):
                mark_collector(draw, inside)
            else:
                mark_kept(draw, inside)
            if patch in coordinates:
                mark_coordinate(draw, inside)

    def regions(self, side: int) -> None:
        """Dotted borders of regions of ``side`` x ``side`` patches."""
        (wide, high), step = self.size, side * self.patch
        points = [(x, y) for x in range(step, wide, step) for y in range(0, high, 2)]
        points += [(x, y) for y in range(step, high, step) for x in range(0, wide, 2)]
        ImageDraw.Draw(self.image).point(points, fill=INK)

    def links(self, collector: int, weights: Sequence[float]) -> None:
        """Lines from a collector to the patches that it gathers most of, the heavier the wider."""
        draw = ImageDraw.Draw(self.image)
        strongest = sorted(range(len(weights)), key=lambda patch: -weights[patch])[:STRONGEST]
        heaviest = max((weights[patch] for patch in strongest if patch != collector), default=0)
        for patch in strongest:
            if patch != collector and weights[patch] > 0:
                ends = (self.center_of(*divmod(at, self.grid[1])) for at in (collector, patch))
                draw.line([*ends], fill=LINK, width=max(2, round(5 * weights[patch] / heaviest)))
        draw.rectangle(self.box_of(collector), outline=LINK, width=3)

    def box(self, box: Box, colour: str, dashed: bool) -> None:
        """A box in fractions of the grid, black beside the colour so that it shows on anything."""
        corners = tuple(value * side for value, side in zip(box, self.size * 2, strict=True))
        draw_box(ImageDraw.Draw(self.image), corners, colour, dashed)

    def ids(self, moves: Sequence[tuple[tuple[int, int], tuple[int, int]]]) -> None:
        """Dots where tokens are by their ids: blue where they stand, else vermilion with a line to where they stand."""
        draw = ImageDraw.Draw(self.image)
        for here, there in moves:
            if here != there:
                draw.line([self.center_of(*here), self.center_of(*there)], fill="#777777", width=2)
        for here, there in moves:
            _draw_dot(draw, *self.center_of(*there), max(1, self.patch // 5), KEPT if here == there else MOVED)

    def finished(self) -> Image.Image:
        """The panel under its caption, which is at least as wide as four words."""
        width = max(self.size[0], _NARROWEST)
        caption = text_block([[Phrase(line)] for line in self.caption.splitlines()], width)
        sheet = Image.new("RGB", (width, self.size[1] + caption.height), "white")
        sheet.paste(caption, (0, 0))
        sheet.paste(self.image, (0, caption.height))
        return sheet


def fade(picture: Image.Image) -> Image.Image:
    """Paler and greyer, but still to be made out."""
    half = Image.blend(ImageOps.grayscale(picture).convert("RGB"), picture, 0.45)
    return Image.blend(half, Image.new("RGB", picture.size, "white"), 0.5)


def mark_kept(draw: ImageDraw.ImageDraw, box: tuple[float, float, float, float]) -> None:
    """A thin blue frame: a token that stays."""
    draw.rectangle(box, outline=KEPT, width=2)


def mark_collector(draw: ImageDraw.ImageDraw, box: tuple[float, float, float, float]) -> None:
    """A green frame with a dot: it gathered others."""
    x0, y0, x1, y1 = box
    draw.rectangle(box, outline=COLLECTOR, width=2)
    _draw_dot(draw, (x0 + x1 + 1) / 2, (y0 + y1 + 1) / 2, max(2, (x1 - x0) / 8), COLLECTOR)


def mark_coordinate(draw: ImageDraw.ImageDraw, square: tuple[float, float, float, float]) -> None:
    """A cross over a patch that stays in any case, beside its frame."""
    x0, y0, x1, y1 = square
    for ends in ((x0, y0, x1, y1), (x0, y1, x1, y0)):
        draw.line(ends, fill=COORDINATE)


def mark_pillar(draw: ImageDraw.ImageDraw, box: tuple[float, float, float, float]) -> None:
    """A thick orange frame: it stays as it is."""
    draw.rectangle(box, outline=PILLAR, width=max(3, round((box[2] - box[0]) / 6)))


def draw_box(draw: ImageDraw.ImageDraw, corners: tuple[float, ...], colour: str, dashed: bool) -> None:
    """A box (x0, y0, x1, y1) in pixels, black on both sides of its colour."""
    x0, y0, x1, y1 = corners
    ring = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    for one, other in zip(ring, ring[1:] + ring[:1], strict=True):
        draw.line([one, other], fill="black", width=6)
        for start, end in _dashes(one, other) if dashed else [(one, other)]:
            draw.line([start, end], fill=colour, width=3)


def _draw_dot(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, colour: str) -> None:
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def _dashes(one: tuple[float, float], other: tuple[float, float], length: float = 10) -> list:
    """Every second piece of a line."""
    whole = max(abs(other[0] - one[0]), abs(other[1] - one[1]), 1e-9)
    places = [min(i * length / whole, 1) for i in range(int(whole / length) + 2)]
    points = [(one[0] + (other[0] - one[0]) * at, one[1] + (other[1] - one[1]) * at) for at in places]
    return list(zip(points[::2], points[1::2], strict=False))


def in_a_line(images: Sequence[Image.Image], down: bool = False) -> Image.Image:
    """Images in a row, top edges in line; with ``down`` under each other, left edges in line."""
    along = [image.size[down] + GAP for image in images]
    size = sum(along) - GAP, max(image.size[not down] for image in images)
    sheet = Image.new("RGB", size[::-1] if down else size, "white")
    for image, start in zip(images, accumulate(along, initial=0), strict=False):
        sheet.paste(image, (0, start) if down else (start, 0))
    return sheet
