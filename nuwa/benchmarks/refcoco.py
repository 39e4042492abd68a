"""RefCOCO, RefCOCO+ and RefCOCOg: find what an expression means.

Source: lmms-eval v0.3.4 (a863517), tasks ``*_bbox_rec_*``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from PIL import Image

from nuwa.benchmarks.base import Scores
from nuwa.benchmarks.cells import Doc, identifier, texts
from nuwa.benchmarks.hub import Entry, HubBenchmark
from nuwa.benchmarks.scoring import NO_BOX, Box, box_iou, center_inside, parse_box, to_padded_frame
from nuwa.samples import SampleError

THRESHOLDS = (0.5, 0.1, 0.3, 0.7, 0.9)  # the printed one first
SLACK = 1.0  # pixels by which an annotated box may leave its picture; COCO's are rounded


def score(doc: Doc, text: str, box_frame: str = "original") -> Scores:
    """``doc``: ``bbox`` (x0, y0, x1, y1) as fractions of a picture of ``image_width`` x ``image_height`` pixels.

    ``box_frame`` is the frame in which the answer's box is taken to be. The paper's numbers take the ``original``,
    although LLaVA-1.5 answers in the frame of the ``padded`` square; overlap in the other frame comes beside.
    """
    box = parse_box(text.strip())
    truth = tuple(doc["bbox"])
    targets = {"original": truth, "padded": to_padded_frame(truth, doc["image_width"], doc["image_height"])}
    target, overlap = targets.pop(box_frame), box_iou
    value = overlap(target, box or NO_BOX)
    scores = {f"refcoco/ACC@{threshold}": float(value >= threshold) for threshold in THRESHOLDS}
    scores |= {
        "refcoco/IoU": value,
        "refcoco/Center_ACC": center_inside(target, box or NO_BOX),
        "refcoco/parsed": float(box is not None),
    }
    ((other, target),) = targets.items()
    value = overlap(target, box or NO_BOX)
    return scores | {f"refcoco_{other}/ACC@0.5": float(value >= 0.5), f"refcoco_{other}/IoU": value}


def a_box(cell: object) -> list[float]:
    """Four finite numbers: corner, then size, in pixels."""
    numbers = isinstance(cell, list) and all(isinstance(one, int | float) and math.isfinite(one) for one in cell)
    if not numbers or len(cell) != 4:
        raise TypeError("must be four numbers")
    return cell


def unit_box(box: Sequence[float], width: int, height: int) -> Box:
    """A pixel box (x, y, width, height) as corners in 0..1 of a picture of ``width`` x ``height`` pixels."""
    x, y, wide, high = box
    if wide <= 0 or high <= 0:
        raise SampleError(f"bbox {list(box)} (x, y, width, height) is empty or reversed")
    if min(x, y) < -SLACK or x + wide > width + SLACK or y + high > height + SLACK:
        raise SampleError(f"bbox {list(box)} (x, y, width, height) leaves the picture of {width} x {height} pixels")
    return x / width, y / height, (x + wide) / width, (y + high) / height


@dataclass(kw_only=True, eq=False)
class RefCOCO(HubBenchmark):
    """One sample per expression; a row holds several for one box."""

    box_frame: Literal["original", "padded"] = "original"

    task: ClassVar = "refcoco"
    unit_box_tasks: ClassVar = (task,)
    columns: ClassVar = {"question_id": identifier, "answer": texts, "bbox": a_box}
    keys: ClassVar = ("question_id", "answer")
    slots: ClassVar = ("expression",)
    scored: ClassVar = ("bbox", "image_width", "image_height")

    def entries(self, row: int, keys: Doc) -> Iterator[Entry]:
        """Ids hold the row, because two splits of the literature, which share boxes, are joined in one here."""
        for number in range(len(texts(keys["answer"]))):
            yield f"{identifier(keys['question_id'])}-{row}-{number}", None

    def document(self, doc: Doc, part: int, images: Sequence[Image.Image]) -> Doc:
        if len(images) != 1:
            raise SampleError(f"an expression needs one picture, the row has {len(images)}")
        width, height = images[0].size
        box = unit_box(doc["bbox"], width, height)
        return {"expression": doc["answer"][part], "bbox": box, "image_width": width, "image_height": height}

    def fill(self, doc: Doc) -> Mapping[str, str]:
        return {"expression": doc["expression"]}

    def expression(self, doc: Doc) -> str:
        return doc["expression"]

    def score_document(self, doc: Doc, text: str) -> Scores:
        return score(doc, text, self.box_frame)
