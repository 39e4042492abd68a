"""Scores as pure functions that do exactly what lmms-eval does, quirks included.

A box is (x0, y0, x1, y1) as fractions of a picture's width and height, unless pixels are named. Source: lmms-eval
v0.3.4 (a863517), the version behind the paper's numbers; golden data in ``tests/golden/scoring``.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable

import numpy as np

from nuwa.samples import SampleError

Box = tuple[float, float, float, float]

NO_BOX: Box = (0.0, 0.0, 0.0, 0.0)
"""What lmms-eval scores when an answer holds no box."""
SLACK = 1.0
"""Pixels by which an annotated box may leave its picture; COCO's are rounded."""

_NUMBER = r"(-?\d+(?:\.\d+)?)"
_BOX = re.compile(r"\[\s*" + r",\s*".join([_NUMBER] * 4) + r"\s*\]")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise_answer(text: str, ignore_punctuation: bool = True) -> str:
    """Strip, lower, and delete ASCII punctuation (GQA's rule; POPE keeps it, so that "Yes." is wrong).

    >>> normalise_answer(" T-shirt. ")
    'tshirt'
    """
    text = text.strip().lower()
    return text.translate(_NO_PUNCTUATION) if ignore_punctuation else text


def exact_match(answers: Iterable[str], prediction: str, ignore_punctuation: bool = True) -> float:
    """1.0 if the prediction equals one of the accepted answers after `normalise_answer`, else 0.0."""
    said = normalise_answer(prediction, ignore_punctuation)
    return float(any(said == normalise_answer(answer, ignore_punctuation) for answer in answers))


def first_capital(text: str, letters: str, leads: Iterable[str]) -> str | None:
    """The first of some capital letters in an answer from which each of ``leads`` was deleted; None if there is none.

    >>> first_capital("The best answer is C.", "ABCD", ["The best answer is"]), first_capital("Because: C", "ABCD", [])
    ('C', 'B')
    """
    for lead in leads:
        text = text.replace(lead, "")
    return next((sign for sign in text if sign in letters), None)


def parse_box(text: str) -> Box | None:
    """The first ``[a, b, c, d]`` in a text: four plain numbers, no space before a comma; None if there is none.

    Values are taken as they are, also outside 0..1 (lmms-eval's ``parse_float_sequence_within``).

    >>> parse_box("It is at [0.1, 0.2, 0.5, 1].")
    (0.1, 0.2, 0.5, 1.0)
    """
    found = _BOX.search(text)
    if found is None:
        return None
    x0, y0, x1, y1 = map(float, found.groups())
    return x0, y0, x1, y1


def box_iou(target: Box, predicted: Box) -> float:
    """Intersection over union. Areas are signed: a box with swapped corners meets nothing and scores 0."""
    wide = max(0.0, min(target[2], predicted[2]) - max(target[0], predicted[0]))
    high = max(0.0, min(target[3], predicted[3]) - max(target[1], predicted[1]))
    shared = wide * high
    union = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (target, predicted)) - shared
    return shared / union if union else 0.0


def center_inside(target: Box, predicted: Box) -> float:
    """1.0 if the centre of the predicted box lies in the target, its edges included."""
    x, y = (predicted[0] + predicted[2]) / 2, (predicted[1] + predicted[3]) / 2
    return float(target[0] <= x <= target[2] and target[1] <= y <= target[3])


def grounding_scores(target: Box, prediction: str, prefix: str = "vg") -> dict[str, float]:
    """Scores of one answer: ``acc@0.5`` (IoU >= 0.5, the paper's), ``miou``, ``center_acc``, ``parsed`` (has a box)."""
    box = parse_box(prediction)
    overlap = box_iou(target, box or NO_BOX)
    return {
        f"{prefix}/acc@0.5": float(overlap >= 0.5),
        f"{prefix}/miou": overlap,
        f"{prefix}/center_acc": center_inside(target, box or NO_BOX),
        f"{prefix}/parsed": float(box is not None),
    }


def to_padded_frame(box: Box, width: int, height: int) -> Box:
    """A box of a ``width`` x ``height`` picture, as fractions of the square that LLaVA-1.5 pads it to.

    >>> to_padded_frame((0, 0, 1, 1), 400, 200)
    (0.0, 0.25, 1.0, 0.75)
    """
    side = max(width, height)
    left, top = (side - width) // 2, (side - height) // 2
    x, y = [(value * width + left) / side for value in box[::2]], [(value * height + top) / side for value in box[1::2]]
    return x[0], y[0], x[1], y[1]


def in_both_frames(box: Box, width: int, height: int, frame: str) -> tuple[Box, str, Box]:
    """A picture's box in ``frame`` (original or padded), the name of the other frame, and the box in that one."""
    boxes = {"original": box, "padded": to_padded_frame(box, width, height)}
    return boxes.pop(frame), *boxes.popitem()


def unit_box(box: Box, width: int, height: int, what: str) -> Box:
    """Corners in pixels as fractions of a ``width`` x ``height`` picture, rounded to single precision.

    The reference stores them so. An answer on the edge of a threshold can fall on either side of it.

    Raises:
        SampleError: the box leaves the picture by more than `SLACK`; ``what`` is its name.
    """
    x0, y0, x1, y1 = box
    if min(x0, y0) < -SLACK or x1 > width + SLACK or y1 > height + SLACK:
        raise SampleError(f"{what} leaves the picture of {width} x {height} pixels")
    exact = (x0 / width, y0 / height, x1 / width, y1 / height)
    x0, y0, x1, y1 = (float(np.float32(side)) for side in exact)
    return x0, y0, x1, y1
