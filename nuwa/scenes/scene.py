"""Generated pictures: coloured shapes on a structured background, with their exact boxes.

Everything is numpy and a pure function of the random generator that is passed in. Seeds are lists of three words, and
the last word keeps the uses apart: ``default_rng([seed, index, 7])`` is reserved for held-out evaluation scenes,
training draws from ``default_rng([seed, step, 1])`` and its caption bank from ``default_rng([seed, 0, 2])``.
"""

from dataclasses import dataclass

import numpy as np

IMAGE_SIZE = 96
COLORS = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (50, 70, 225),
    "yellow": (235, 220, 50),
    "purple": (150, 50, 180),
    "cyan": (60, 210, 220),
    "orange": (245, 140, 30),
    "white": (245, 245, 245),
}
SHAPES = ("circle", "square", "triangle", "diamond", "cross", "ring")
SHAPE_SIZES = ("small", "large")
SIDE_RANGE = {"small": (12, 18), "large": (22, 33)}
PLACEMENT_TRIES = 12


@dataclass(frozen=True)
class SceneObject:
    """One drawn shape; ``box`` is (x0, y0, x1, y1) in pixels, half-open and tight around its pixels.

    The higher its ``prominence``, the more often captions name it.
    """

    color: str
    shape: str
    size: str
    box: tuple[int, int, int, int]
    prominence: float

    @property
    def center(self) -> tuple[float, float]:
        """Centre (x, y) of the box in pixels."""
        x0, y0, x1, y1 = self.box
        return (x0 + x1) / 2, (y0 + y1) / 2


@dataclass(frozen=True)
class Scene:
    """A picture: ``image`` uint8 (S, S, 3); ``owner`` int8 (S, S), index of the object drawn at a pixel or -1."""

    image: np.ndarray
    objects: tuple[SceneObject, ...]
    owner: np.ndarray


def draw_scene(rng: np.random.Generator, size: int = IMAGE_SIZE, count: tuple[int, int] = (3, 7)) -> Scene:
    """Draw a scene of ``size`` x ``size`` pixels with ``count[0]`` to ``count[1]`` objects that do not overlap."""
    while True:
        canvas = draw_background(rng, size)
        placed, owner = _place_objects(rng, canvas, count)
        if len(placed) >= count[0]:
            break
    canvas += rng.standard_normal(canvas.shape, dtype=np.float32) * rng.uniform(0.02, 0.05)
    image = (np.clip(canvas, 0, 1) * 255).astype(np.uint8)
    return Scene(image, tuple(placed), owner)


def shape_mask(shape: str, height: int, width: int) -> np.ndarray:
    """Boolean (height, width) mask of ``shape``."""
    v = ((np.arange(height) + 0.5) / height * 2 - 1)[:, None]
    u = ((np.arange(width) + 0.5) / width * 2 - 1)[None]
    radius = u * u + v * v
    masks = {
        "circle": lambda: radius <= 1,
        "square": lambda: np.ones((height, width), bool),
        "triangle": lambda: np.abs(u) <= (v + 1) / 2 + 0.06,
        "diamond": lambda: np.abs(u) + np.abs(v) <= 1.05,
        "cross": lambda: (np.abs(u) <= 0.34) | (np.abs(v) <= 0.34),
        "ring": lambda: (radius <= 1) & (radius >= 0.28),
    }
    return masks[shape]()


def _place_objects(
    rng: np.random.Generator, canvas: np.ndarray, count: tuple[int, int]
) -> tuple[list[SceneObject], np.ndarray]:
    """Paint objects into ``canvas`` (S, S, 3), colours and shapes from a small palette so that some repeat."""
    size = len(canvas)
    background = canvas.copy()
    owner = np.full((size, size), -1, np.int8)
    taken = np.zeros((size, size), bool)
    colors = rng.permutation(list(COLORS))[: rng.integers(2, 6)]
    shapes = rng.permutation(SHAPES)[: rng.integers(2, 6)]
    objects: list[SceneObject] = []
    for _ in range(rng.integers(count[0], count[1] + 1)):
        for _ in range(PLACEMENT_TRIES):
            color, shape = str(rng.choice(colors)), str(rng.choice(shapes))
            kind = SHAPE_SIZES[int(rng.random() < 0.5)]
            side, aspect = rng.integers(*SIDE_RANGE[kind]), rng.uniform(0.88, 1.14)
            mask = shape_mask(shape, round(side * aspect**0.5), round(side / aspect**0.5))
            y, x = rng.integers(0, size - mask.shape[0] + 1), rng.integers(0, size - mask.shape[1] + 1)
            here = (slice(y, y + mask.shape[0]), slice(x, x + mask.shape[1]))
            near = (slice(max(0, y - 1), here[0].stop + 1), slice(max(0, x - 1), here[1].stop + 1))
            twin = any((o.color, o.shape, o.size) == (color, shape, kind) for o in objects)
            if taken[near].any() or (twin and rng.random() < 0.7):
                continue
            taken[here], owner[here][mask] = True, len(objects)
            objects.append(_paint(rng, canvas, background, mask, (y, x), (color, shape, kind)))
            break
    return objects, owner


def _paint(rng, canvas, background, mask, corner: tuple[int, int], names: tuple[str, str, str]) -> SceneObject:
    """Fill ``mask`` at ``corner`` (y, x) with a slightly varied colour and describe the object."""
    y, x = corner
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = (int(x + columns[0]), int(y + rows[0]), int(x + columns[-1] + 1), int(y + rows[-1] + 1))
    paint = np.asarray(COLORS[names[0]], np.float32) / 255
    paint = np.clip(paint * rng.uniform(0.85, 1.08) + rng.normal(0, 0.02, 3), 0, 1).astype(np.float32)
    canvas[y : y + mask.shape[0], x : x + mask.shape[1]][mask] = paint
    around = background[max(0, y - 3) : y + mask.shape[0] + 3, max(0, x - 3) : x + mask.shape[1] + 3]
    return SceneObject(*names, box, prominence(int(mask.sum()), paint, around.mean((0, 1)), box, len(canvas)))


def prominence(area: int, paint: np.ndarray, around: np.ndarray, box: tuple[int, ...], size: int) -> float:
    """How much an object of ``area`` pixels stands out: log area + contrast with what surrounds it + central place."""
    contrast = float(np.abs(paint - around).mean())
    offset = np.hypot((box[0] + box[2]) / size - 1, (box[1] + box[3]) / size - 1)
    return float(1.5 * np.log(area / 200) + 5.0 * contrast - 1.5 * offset)


def draw_background(rng: np.random.Generator, size: int) -> np.ndarray:
    """Two to five regions (wall, sky, ground) of muted colours, each with its own gradient and texture: (S, S, 3)."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    seeds = rng.uniform(-0.2 * size, 1.2 * size, (rng.integers(2, 4 if size < IMAGE_SIZE else 6), 2)).astype(np.float32)
    seeds[:, 1] = (seeds[:, 1] - size / 2) * rng.uniform(0.2, 1.0) + size / 2  # low values give horizons
    wave = 3 * np.sin(x * rng.uniform(0.05, 0.25) + rng.uniform(0, 6))
    region = ((y + wave - seeds[:, :1, None]) ** 2 + (x - seeds[:, 1:, None]) ** 2).argmin(0)
    canvas = np.empty((size, size, 3), np.float32)
    for index in range(len(seeds)):
        inside = region == index
        if inside.any():
            canvas[inside] = _texture(rng, y[inside], x[inside], size)
    for _ in range(rng.integers(0, 1 + size // 16)):
        top, left = rng.integers(0, size - 3, 2)
        length, upright = int(rng.integers(3, 9)), rng.random() < 0.5
        height, width = (length, 2) if upright else (2, length)
        canvas[top : top + height, left : left + width] = rng.uniform(0.1, 0.75, 3) * 0.5 + rng.uniform(0.1, 0.35)
    return canvas


def _texture(rng: np.random.Generator, y: np.ndarray, x: np.ndarray, size: int) -> np.ndarray:
    """Colours (N, 3) of the pixels at (y, x): a muted base, a linear gradient, and one of five textures."""
    base = rng.uniform(0.15, 0.68) + rng.normal(0, 0.055, 3).clip(-0.12, 0.12)
    angle = rng.uniform(0, 2 * np.pi)
    along = (np.cos(angle) * x + np.sin(angle) * y).astype(np.float32)
    value = rng.uniform(-0.12, 0.12) * (along / size)
    kind, strength = rng.integers(5), rng.uniform(0.03, 0.10)
    if kind == 1:
        value += strength * np.sign(np.sin(along * rng.uniform(0.4, 1.2)))
    elif kind == 2:
        cell = rng.integers(3, 9)
        value += strength * ((x // cell + y // cell) % 2 * 2 - 1)
    elif kind == 3:
        cell = rng.integers(4, 13)
        blotches = rng.standard_normal((size // cell + 2, size // cell + 2)).astype(np.float32)
        value += strength * blotches[(y // cell).astype(int), (x // cell).astype(int)].clip(-1.5, 1.5)
    elif kind == 4:
        value += strength * rng.standard_normal(len(x)).astype(np.float32)
    return (base + value[:, None]).astype(np.float32)
