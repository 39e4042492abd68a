"""ScreenSpot-V2: where to click on a screen. Source: lmms-eval v0.7.3, task ``screenspot_v2``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

from nuwa.benchmarks import column_checks as column
from nuwa.benchmarks.base import Doc, Scores, headline_first
from nuwa.benchmarks.hub import HubBenchmark
from nuwa.samples import SampleError

Point = tuple[float, float]

_NUMBER = r"-?\d+(?:\.\d+)?%?"
_NUMBERS = re.compile(_NUMBER)
_TAGGED = re.compile(r"<\s*bbox[^>]*>(.*?)<\s*/\s*bbox\s*>", re.IGNORECASE | re.DOTALL)
_PAIR = re.compile(rf"[\[(]\s*({_NUMBER})\s*[,\s]\s*({_NUMBER})\s*[\])]")
_NAMED = re.compile(rf"x['\"]?\s*[:=]\s*({_NUMBER}).*?y['\"]?\s*[:=]\s*({_NUMBER})", re.IGNORECASE | re.DOTALL)
_BOX_WORDS = ("box", "rect")


def parse_point(text: str) -> Point | None:
    """The point that an answer names, in its own numbers; None if it holds no two numbers.

    In order: the middle of a ``<bbox>``, a pair in brackets, ``x: ..., y: ...``, the middle of four numbers where a
    word says that they are a box, the first two numbers. ``50%`` is 0.5.

    >>> parse_point("click (0.5, 0.25)"), parse_point("the box is 0 0 1 0.5"), parse_point("nowhere")
    ((0.5, 0.25), (0.5, 0.25), None)
    """
    tagged = _TAGGED.search(text)
    corners = _numbers(_NUMBERS.findall(tagged[1])) if tagged else []
    if len(corners) >= 4:
        return _middle(corners)
    pair = _PAIR.search(text) or _NAMED.search(text)
    if pair:
        x, y = _numbers(pair.groups())
        return x, y
    numbers = _numbers(_NUMBERS.findall(text))
    if len(numbers) >= 4 and any(word in text.lower() for word in _BOX_WORDS):
        return _middle(numbers)
    return (numbers[0], numbers[1]) if len(numbers) >= 2 else None


def _numbers(found: Sequence[str]) -> list[float]:
    return [float(one[:-1]) / 100 if one.endswith("%") else float(one) for one in found]


def _middle(corners: Sequence[float]) -> Point:
    return (corners[0] + corners[2]) / 2, (corners[1] + corners[3]) / 2


def fractions(value: object) -> list[float]:
    """Corners x0, y0, x1, y1 as fractions of the picture, in order."""
    box = column.four_numbers(value)
    if not (0 <= box[0] <= box[2] <= 1 and 0 <= box[1] <= box[3] <= 1):
        raise ValueError("must be fractions x0, y0, x1, y1 of the picture, in order")
    return box


class ScreenSpot(HubBenchmark):
    """One instruction for each row; what it means is text or an icon (``data_type``)."""

    task: ClassVar = "screenspot_v2"
    columns: ClassVar = {"instruction": column.text, "bbox": fractions, "data_type": column.text}
    slots: ClassVar = ("instruction",)
    scored: ClassVar = ("bbox", "data_type", "image_width", "image_height")

    def document(self, doc: Doc, part: int, sizes: Sequence[tuple[int, int]]) -> Doc:
        if len(sizes) != 1:
            raise SampleError(f"an instruction needs one picture, the row has {len(sizes)}")
        return doc | {"image_width": sizes[0][0], "image_height": sizes[0][1]}

    def score_document(self, doc: Doc, text: str) -> Scores:
        """Whether the point lies in the box, its edges included, as a whole and for its kind of target.

        ``screenspot_v2_pixels/*`` takes a point with a number above 1 for pixels of the picture. lmms-eval does so
        where a row says how large its picture is, which the published rows do not.
        """
        point, kind = parse_point(text), doc["data_type"].lower()
        scaled = point
        if point is not None and max(point) > 1:
            scaled = point[0] / doc["image_width"], point[1] / doc["image_height"]
        scores: Scores = {}
        for name, place in ((self.task, point), (f"{self.task}_pixels", scaled)):
            right = float(place is not None and _inside(place, doc["bbox"]))
            scores |= {f"{name}/accuracy": right, f"{name}/accuracy/{kind}": right}
        return scores | {f"{self.task}/parsed": float(point is not None)}

    def numbers(self, means: Scores) -> Scores:
        return headline_first(means)


def _inside(point: Point, box: Sequence[float]) -> bool:
    return box[0] <= point[0] <= box[2] and box[1] <= point[1] <= box[3]
