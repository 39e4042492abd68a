"""Generated clips: coloured squares that move, change and flash, with questions that need to be asked in time.

A clip has five squares of five colours: one moves along a straight line, one turns into another at its place (the first
is seen until a frame, the second from there on), two flash, each at its own place, in one to three separate frames.
Everything is numpy and a pure function of the random generator that is passed in, seeded as for pictures
(`nuwa.scenes.scene`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nuwa.scenes.questions import Question
from nuwa.scenes.scene import COLORS, Scene, SceneObject

FRAMES, CLIP_SIZE = 8, 32
SIDES = (7, 10)  # of a square in pixels, half-open
SPEED = (1.6, 2.6)  # pixels per frame
TURNS = (2, 7)  # first frame of the second colour, half-open
MAX_FLASHES = 3
DIRECTIONS = {"left": (0, -1), "right": (0, 1), "up": (1, -1), "down": (1, 1)}  # axis (x, y) and sign
SPOT_TRIES = 30

Box = tuple[int, int, int, int]
MOVER, BEFORE, AFTER, FLASHERS = 0, 1, 2, (3, 4)
"""Places of the squares in ``Clip.squares``."""


@dataclass(frozen=True)
class Square:
    """A square of one colour and where it is seen: frame -> box (x0, y0, x1, y1) in pixels, half-open."""

    color: str
    boxes: dict[int, Box]

    @property
    def appearances(self) -> list[int]:
        """First frame of every run of frames in which the square is seen."""
        return [frame for frame in self.boxes if frame - 1 not in self.boxes]


@dataclass(frozen=True)
class Clip:
    """``frames`` uint8 (F, S, S, 3); five ``squares``; ``direction`` in which the first moves."""

    frames: np.ndarray
    squares: tuple[Square, ...]
    direction: str

    def scene(self, frame: int) -> Scene:
        """One frame as a picture of small squares; ``owner`` and object order are those of ``squares``."""
        objects = [
            SceneObject(square.color, "square", "small", square.boxes[frame], 0.0)
            for square in self.squares
            if frame in square.boxes
        ]
        return Scene(self.frames[frame], tuple(objects), np.empty(0, np.int8))


def draw_clip(rng: np.random.Generator) -> Clip:
    """Draw a clip of 8 frames of 32 x 32 pixels."""
    while True:
        path, direction = _draw_path(rng)
        spots = _free_spots(rng, path)
        flashes = [_flash_frames(rng) for _ in FLASHERS]
        if len(spots) == 3 and flashes[0][0] != flashes[1][0]:
            break
    turn = int(rng.integers(*TURNS))
    times = [range(turn), range(turn, FRAMES), *flashes]
    places = [spots[0], spots[0], spots[1], spots[2]]
    boxes = [dict(enumerate(path)), *(dict.fromkeys(when, spot) for when, spot in zip(times, places, strict=True))]
    colors = [str(color) for color in rng.permutation(list(COLORS))[: len(boxes)]]
    squares = tuple(Square(color, seen) for color, seen in zip(colors, boxes, strict=True))
    return Clip(_paint(rng, squares), squares, direction)


def _draw_path(rng: np.random.Generator) -> tuple[list[Box], str]:
    """Boxes of a square that moves along one axis at a constant speed and stays inside."""
    direction = list(DIRECTIONS)[rng.integers(len(DIRECTIONS))]
    axis, sign = DIRECTIONS[direction]
    side = int(rng.integers(*SIDES))
    travel, room = (FRAMES - 1) * rng.uniform(*SPEED), CLIP_SIZE - side
    start, across = rng.uniform(0, room - travel), int(rng.integers(0, room + 1))
    steps = start + travel * np.arange(FRAMES) / (FRAMES - 1)
    path = []
    for along in np.round(steps[::sign]).astype(int):
        x, y = (int(along), across) if axis == 0 else (across, int(along))
        path.append((x, y, x + side, y + side))
    return path, direction


def _free_spots(rng: np.random.Generator, path: list[Box]) -> list[Box]:
    """Up to three boxes that touch neither each other nor the path."""
    corners = np.array(path)
    taken = [(*corners[:, :2].min(0), *corners[:, 2:].max(0))]
    for _ in range(SPOT_TRIES):
        side = int(rng.integers(*SIDES))
        x, y = (int(corner) for corner in rng.integers(0, CLIP_SIZE - side + 1, 2))
        box = (x, y, x + side, y + side)
        if all(box[0] > b[2] or b[0] > box[2] or box[1] > b[3] or b[1] > box[3] for b in taken):
            taken.append(box)
        if len(taken) == 4:
            break
    return taken[1:]


def _flash_frames(rng: np.random.Generator) -> list[int]:
    """One to three frames, no two of them neighbours."""
    count = int(rng.integers(1, MAX_FLASHES + 1))
    slots = np.sort(rng.choice(FRAMES - count + 1, count, replace=False))
    return [int(frame) for frame in slots + np.arange(count)]


def _paint(rng: np.random.Generator, squares: tuple[Square, ...]) -> np.ndarray:
    """Frames (F, S, S, 3): a blocky grey background that stays, squares, and noise that is new in every frame."""
    blocks = rng.uniform(0.25, 0.6, (4, 4, 1)) + rng.normal(0, 0.02, (4, 4, 3))
    background = np.kron(blocks, np.ones((CLIP_SIZE // 4, CLIP_SIZE // 4, 1)))
    canvas = np.repeat(background[None], FRAMES, 0)
    for square in squares:
        paint = np.asarray(COLORS[square.color]) / 255 * rng.uniform(0.9, 1.05) + rng.normal(0, 0.02, 3)
        for frame, (x0, y0, x1, y1) in square.boxes.items():
            canvas[frame, y0:y1, x0:x1] = paint
    canvas += rng.standard_normal(canvas.shape, dtype=np.float32) * 0.03
    return (np.clip(canvas, 0, 1) * 255).astype(np.uint8)


def ask_clip(clip: Clip, rng: np.random.Generator, kind: str) -> Question | None:
    """Draw a question of ``kind``, one of `CLIP_KINDS`; None if the clip allows none.

    ``targets`` and ``mentions`` of the question number sightings: square times `FRAMES` plus frame.
    """
    drawn = CLIP_KINDS[kind](clip, rng)
    if drawn is None:
        return None
    text, answer, sightings = drawn
    mentions = []
    for position, word in enumerate(text.split()):
        named = tuple(s for s in sightings if clip.squares[s // FRAMES].color == word)
        if word in COLORS:
            mentions.append((position, named))
    return Question(text, answer, kind, targets=sightings, mentions=tuple(mentions))


def _sightings(clip: Clip, index: int) -> tuple[int, ...]:
    return tuple(index * FRAMES + frame for frame in clip.squares[index].boxes)


def _direction(clip: Clip, rng: np.random.Generator):
    return f"which way does {clip.squares[MOVER].color} move ?", clip.direction, _sightings(clip, MOVER)


def _order(clip: Clip, rng: np.random.Generator):
    """Which of the two flashing squares is seen first?"""
    first, second = (int(index) for index in rng.permutation(FLASHERS))
    a, b = clip.squares[first], clip.squares[second]
    answer = a if a.appearances[0] < b.appearances[0] else b
    sightings = (first * FRAMES + a.appearances[0], second * FRAMES + b.appearances[0])
    return f"what comes first {a.color} or {b.color} ?", answer.color, sightings


def _moment(clip: Clip, rng: np.random.Generator):
    """In which frame does a square that flashes once appear?"""
    once = [index for index in FLASHERS if len(clip.squares[index].boxes) == 1]
    if not once:
        return None
    index = once[rng.integers(len(once))]
    frame = clip.squares[index].appearances[0]
    return f"when does {clip.squares[index].color} appear ?", str(frame), _sightings(clip, index)


def _change(clip: Clip, rng: np.random.Generator):
    """Which colour turned into another?"""
    return "what color changes ?", clip.squares[BEFORE].color, _sightings(clip, BEFORE)


def _count(clip: Clip, rng: np.random.Generator):
    index = FLASHERS[rng.integers(len(FLASHERS))]
    square = clip.squares[index]
    return f"how often does {square.color} appear ?", str(len(square.appearances)), _sightings(clip, index)


def _presence(clip: Clip, rng: np.random.Generator):
    """The control: no frame needs another."""
    colors = [square.color for square in clip.squares]
    if rng.random() < 0.5:
        index = int(rng.integers(len(colors)))
        return f"does {colors[index]} appear ?", "yes", _sightings(clip, index)
    absent = [color for color in COLORS if color not in colors]
    return f"does {absent[rng.integers(len(absent))]} appear ?", "no", ()


CLIP_KINDS: dict[str, Callable] = {
    "direction": _direction,
    "order": _order,
    "moment": _moment,
    "change": _change,
    "count": _count,
    "presence": _presence,
}
"""Kinds of questions; each draws (text, answer, sightings), or None where the clip does not allow it."""
