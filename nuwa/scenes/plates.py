"""Generated pictures of plates with numbers on them: questions that need reading, and some that do not.

A picture has two to four plates of different colours, each with a number of three digits in one of three sizes. Numbers
whose digits add up to a multiple of five are held out: training never shows one, though it shows every pair of digits,
so that they cannot be known and must be read. Everything is numpy and a pure function of the random generator that is
passed in, seeded as for pictures (`nuwa.scenes.scene`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nuwa.scenes.questions import Question
from nuwa.scenes.scene import COLORS, draw_background, prominence

PLATES_SIZE = 64  # pixels a side
GLYPHS = ("75557", "26227", "71747", "71717", "55711", "74717", "74757", "71111", "75757", "75717")
"""Five rows of three pixels each, an octal digit a row."""
GLYPH_ROWS, GLYPH_COLUMNS = 5, 3
PLACES = 3
"""Digits of a number."""
SCALES = {"small": 1, "medium": 2, "large": 3}
"""Sizes of plates, and the side of a glyph's pixel in pixels of the picture."""
MAX_PLATES = 4
PLATE_TRIES = 30

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Plate:
    """A coloured rectangle with a ``number``; ``box`` is (x0, y0, x1, y1) in pixels, half-open."""

    color: str
    number: str
    size: str
    box: Box
    prominence: float

    def digit_box(self, place: int) -> Box:
        """Where the digit at ``place`` is, from the left."""
        scale = SCALES[self.size]
        x = self.box[0] + _margin(scale) + place * (GLYPH_COLUMNS + 1) * scale
        y = self.box[1] + _margin(scale)
        return x, y, x + GLYPH_COLUMNS * scale, y + GLYPH_ROWS * scale


@dataclass(frozen=True)
class PlateScene:
    """A picture: ``image`` uint8 (S, S, 3) and its plates, no two of them of one colour or number."""

    image: np.ndarray
    plates: tuple[Plate, ...]


def held_out(number: str) -> bool:
    """Whether training never shows the number."""
    return sum(map(int, number)) % 5 == 0


def draw_plates(rng: np.random.Generator, unseen: bool = False) -> PlateScene:
    """Draw a picture of 64 x 64 pixels; all its numbers are held out (``unseen``), or none is."""
    sizes = [str(size) for size in rng.permutation(list(SCALES))] + [str(rng.choice(list(SCALES)[:2]))]
    sizes = sorted(sizes[: rng.integers(2, MAX_PLATES + 1)], key=SCALES.__getitem__, reverse=True)
    boxes: list[Box] = []
    while len(boxes) < len(sizes):
        boxes = _free_spots(rng, sizes)
    numbers = [number for number in (f"{n:0{PLACES}}" for n in range(10**PLACES)) if held_out(number) == unseen]
    colors = rng.permutation(list(COLORS))[: len(sizes)]
    shown = rng.permutation(numbers)[: len(sizes)]
    canvas = draw_background(rng, PLATES_SIZE)
    plates = tuple(
        _paint(rng, canvas, str(color), str(number), size, box)
        for color, number, size, box in zip(colors, shown, sizes, boxes, strict=True)
    )
    canvas += rng.standard_normal(canvas.shape, dtype=np.float32) * rng.uniform(0.01, 0.03)
    return PlateScene((np.clip(canvas, 0, 1) * 255).astype(np.uint8), plates)


def _margin(scale: int) -> int:
    return max(2, scale)


def _free_spots(rng: np.random.Generator, sizes: list[str]) -> list[Box]:
    """A box for each plate, until one finds no room: no two of them touch."""
    boxes: list[Box] = []
    for scale in (SCALES[size] for size in sizes):
        width = (PLACES * (GLYPH_COLUMNS + 1) - 1) * scale + 2 * _margin(scale)
        height = GLYPH_ROWS * scale + 2 * _margin(scale)
        for _ in range(PLATE_TRIES):
            x, y = int(rng.integers(PLATES_SIZE - width + 1)), int(rng.integers(PLATES_SIZE - height + 1))
            box = (x, y, x + width, y + height)
            if all(box[0] > b[2] or b[0] > box[2] or box[1] > b[3] or b[1] > box[3] for b in boxes):
                boxes.append(box)
                break
        else:
            break
    return boxes


def _paint(rng: np.random.Generator, canvas: np.ndarray, color: str, number: str, size: str, box: Box) -> Plate:
    """Fill ``box`` of ``canvas`` (S, S, 3) with a slightly varied colour and write ``number`` in black or white."""
    paint = np.asarray(COLORS[color], np.float32) / 255
    paint = np.clip(paint * rng.uniform(0.85, 1.08) + rng.normal(0, 0.02, 3), 0, 1).astype(np.float32)
    x0, y0, x1, y1 = box
    around = canvas[max(0, y0 - 3) : y1 + 3, max(0, x0 - 3) : x1 + 3].mean((0, 1))
    plate = Plate(color, number, size, box, prominence((x1 - x0) * (y1 - y0), paint, around, box, PLATES_SIZE))
    canvas[y0:y1, x0:x1] = paint
    ink = 0.05 if paint @ (0.30, 0.59, 0.11) > 0.5 else 0.95
    for place, digit in enumerate(number):
        left, top, right, bottom = plate.digit_box(place)
        canvas[top:bottom, left:right][digit_mask(digit, SCALES[size])] = ink
    return plate


def digit_mask(digit: str, scale: int) -> np.ndarray:
    """Boolean (5 x scale, 3 x scale) mask of a digit."""
    rows = np.array([[int(row) >> shift & 1 for shift in (2, 1, 0)] for row in GLYPHS[int(digit)]], bool)
    return rows.repeat(scale, 0).repeat(scale, 1)


def ask_plates(scene: PlateScene, rng: np.random.Generator, kind: str) -> Question:
    """Draw a question of ``kind``, one of `PLATE_KINDS`.

    ``targets`` and ``mentions`` of the question index ``scene.plates``.
    """
    text, answer, targets = PLATE_KINDS[kind](scene.plates, rng)
    noun = next(place for place, word in enumerate(text.split()) if word in ("plate", "plates"))
    return Question(text, answer, kind, targets=targets, mentions=((noun, targets),))


def _read(plates: tuple[Plate, ...], rng: np.random.Generator):
    index = int(rng.integers(len(plates)))
    return f"what number is on the {plates[index].color} plate ?", plates[index].number, (index,)


def _exist(plates: tuple[Plate, ...], rng: np.random.Generator):
    colors = [plate.color for plate in plates]
    if rng.random() < 0.5:
        index = int(rng.integers(len(plates)))
        return f"is there a {colors[index]} plate ?", "yes", (index,)
    absent = [color for color in COLORS if color not in colors]
    return f"is there a {absent[rng.integers(len(absent))]} plate ?", "no", ()


def _color(plates: tuple[Plate, ...], rng: np.random.Generator):
    """What color has the only plate of a size?"""
    sizes = [plate.size for plate in plates]
    unique = [index for index, size in enumerate(sizes) if sizes.count(size) == 1]
    index = unique[rng.integers(len(unique))]
    return f"what color is the {sizes[index]} plate ?", plates[index].color, (index,)


def _count(plates: tuple[Plate, ...], rng: np.random.Generator):
    return "how many plates are there ?", str(len(plates)), tuple(range(len(plates)))


PLATE_KINDS: dict[str, Callable] = {"read": _read, "exist": _exist, "color": _color, "count": _count}
"""Kinds of questions; each draws (text, answer, plates asked about)."""
