"""RefCOCO for Qwen2.5-VL, which answers in pixels of its resized picture: the Nüwa authors' evaluation.

Source: Man-PaperRejected/Nuwa 175b7d5, Vscan/qwen/eval/test_refcoco_nuwa_*; the records are VLM-R1's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from nuwa.benchmarks import column_checks as column
from nuwa.benchmarks.base import Doc, Scores
from nuwa.benchmarks.hub import HubBenchmark
from nuwa.benchmarks.rows import Rows
from nuwa.benchmarks.scoring import NO_BOX, Box
from nuwa.samples import SampleError

FACTOR, MAX_PIXELS = 28, 28 * 28 * 1280
"""The frame in which the authors' script reads answers; the model's own processor allows larger pictures."""
_ARTICLE = re.compile(r"^(a|an|the)\s+", re.IGNORECASE)
_BOX = re.compile(r"\[(\d+),\s*(\d+),\s*(\d+),\s*(\d+)\]")


def resized(width: int, height: int) -> tuple[int, int]:
    """(width, height) that Qwen2.5-VL's ``smart_resize`` gives: multiples of 28, at most 28 * 28 * 1280 pixels.

    >>> resized(640, 480)
    (644, 476)
    """
    wide, high = (max(FACTOR, round(side / FACTOR) * FACTOR) for side in (width, height))
    if wide * high > MAX_PIXELS:
        shrink = math.sqrt(width * height / MAX_PIXELS)
        wide, high = (max(FACTOR, math.floor(side / shrink / FACTOR) * FACTOR) for side in (width, height))
    return wide, high


def parse_boxes(text: str) -> list[Box]:
    """All ``[a, b, c, d]`` of whole numbers; one empty box if there is none."""
    return [(float(a), float(b), float(c), float(d)) for a, b, c, d in _BOX.findall(text)] or [NO_BOX]


def to_picture(box: Box, width: int, height: int) -> Box:
    """From pixels of the resized picture to pixels of the picture itself."""
    wide, high = resized(width, height)
    x0, y0, x1, y1 = box
    return x0 / wide * width, y0 / high * height, x1 / wide * width, y1 / high * height


def pixel_iou(first: Box, second: Box) -> float:
    """The authors' overlap: the shared part is counted in whole pixels (ends included), the areas are not."""
    left, top = max(first[0], second[0]), max(first[1], second[1])
    right, bottom = min(first[2] - 1, second[2] - 1), min(first[3] - 1, second[3] - 1)
    shared = (right - left + 1) * (bottom - top + 1) if left < right and top < bottom else 0.0
    union = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)) - shared
    return shared / union if union else 0.0


def ordered_corners(value: object) -> list[float]:
    """Corners x0, y0, x1, y1 in pixels, in order."""
    box = column.four_numbers(value)
    if box[2] <= box[0] or box[3] <= box[1]:
        raise ValueError("must be four numbers x0, y0, x1, y1 in order")
    return box


@dataclass(kw_only=True, eq=False)
class QwenRefCOCO(HubBenchmark):
    """One record per expression. ``images`` is the folder in which ``train2014`` lies; null: beside the json."""

    images_folder: str | None = None

    task: ClassVar = "qwen_refcoco"
    columns: ClassVar = {
        "normal_caption": column.text, "solution": ordered_corners, "width": column.integer, "height": column.integer,
    }  # fmt: skip
    slots: ClassVar = ("caption",)
    scored: ClassVar = ("solution", "width", "height")

    def load(self) -> Rows:
        return self.rows_of(self.config, self.images_folder)

    def document(self, doc: Doc, part: int, sizes: Sequence[tuple[int, int]]) -> Doc:
        """The record's size must be its picture's: boxes are in pixels."""
        if list(sizes) != [(doc["width"], doc["height"])]:
            found = ", ".join(f"{width} x {height}" for width, height in sizes) or "missing"
            raise SampleError(f"the record says {doc['width']} x {doc['height']} pixels, its picture is {found}")
        return doc

    def fill(self, doc: Doc) -> Mapping[str, str]:
        """One leading article is dropped."""
        return {"caption": _ARTICLE.sub("", doc["normal_caption"])}

    def score_document(self, doc: Doc, text: str) -> Scores:
        """Right if any box of the answer overlaps ``doc["solution"]`` (corners in pixels) by more than a half."""
        boxes = [to_picture(box, doc["width"], doc["height"]) for box in parse_boxes(text)]
        x0, y0, x1, y1 = map(float, doc["solution"])
        best = max(pixel_iou(box, (x0, y0, x1, y1)) for box in boxes)
        return {
            "qwen_refcoco/accuracy": float(best > 0.5),
            "qwen_refcoco/IoU": best,
            "qwen_refcoco/parsed": float(_BOX.search(text) is not None),
        }
