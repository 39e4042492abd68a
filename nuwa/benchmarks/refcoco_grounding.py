"""RefCOCO for families that answer in JSON: every sentence about a box in one prompt.

The published rule (lmms-eval v0.7.3, tasks ``refcoco_grounding_*``) tries every box of an answer as pixels and as
thousandths of the sides, and keeps the best: it looks at the truth. A strict rule stands beside it: the first box, in
the frame in which the model writes them (``model.box_frame``).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from nuwa.benchmarks import column_checks as column
from nuwa.benchmarks.base import Doc, Scores
from nuwa.benchmarks.hub import HubBenchmark
from nuwa.benchmarks.refcoco import THRESHOLDS, annotated_box
from nuwa.benchmarks.scoring import NO_BOX, Box, box_iou, center_inside
from nuwa.samples import Sample

_KEYS = ("bbox_2d", "bbox", "box", "coordinates", "coord", "location", "position")
_BRACKETED = (re.compile(r"\[.*\]", re.DOTALL), re.compile(r"\{.*\}", re.DOTALL))
_FENCED = re.compile(r"```(?:json)?\s*(.*?)\s*```", re.DOTALL | re.IGNORECASE)
_FOUR = re.compile(r"[,\s]".join([r"\s*(-?\d+(?:\.\d+)?)\s*"] * 4))


def parse_json_boxes(text: str) -> list[Box]:
    """The boxes of an answer: those in its JSON, or else every four numbers in a row. Numbers must be finite.

    In JSON a box is a list of four numbers, by itself or under one of the usual keys (``bbox_2d``, ``box`` ...).

    >>> parse_json_boxes('[{"bbox_2d": [1, 2, 3, 4], "label": "dog"}]'), parse_json_boxes("at 1, 2, 3, 4")
    ([(1.0, 2.0, 3.0, 4.0)], [(1.0, 2.0, 3.0, 4.0)])
    """
    found = list(_boxes_in(_json_in(text)))
    in_text = (_as_box(match.groups()) for match in _FOUR.finditer(text))
    return found or [box for box in in_text if box is not None]


def _json_in(text: str) -> Any:
    """The JSON of an answer: in a fence, all of it, or from the first bracket to the last; None if there is none."""
    fenced = _FENCED.search(text)
    pieces = [fenced[1]] if fenced else []
    pieces += [text.strip(), *(found[0] for found in (form.search(text) for form in _BRACKETED) if found)]
    for piece in pieces:
        try:
            return json.loads(piece)
        except (ValueError, RecursionError):
            continue
    return None


def _boxes_in(data: Any) -> Iterator[Box]:
    """The boxes in a JSON value, in order, however deep they are."""
    waiting = [data]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            is_box = len(value) == 4 and all(isinstance(one, int | float) for one in value)
            boxes, parts = [_as_box(value)] if is_box else [], [] if is_box else value
        elif isinstance(value, dict):
            boxes = [_as_box(value[key]) for key in _KEYS if isinstance(value.get(key), list)]
            parts = list(value.values())
        else:
            continue
        box = next((one for one in boxes if one is not None), None)
        if box is not None:
            yield box
        else:
            waiting += reversed(parts)


def _as_box(values: Sequence[Any]) -> Box | None:
    """Four finite numbers, which may be written as texts, as a box; None for anything else."""
    try:
        x0, y0, x1, y1 = map(float, values)
    except (TypeError, ValueError, OverflowError):
        return None
    return (x0, y0, x1, y1) if all(map(math.isfinite, (x0, y0, x1, y1))) else None


class RefCOCOGrounding(HubBenchmark):
    """One sample per row. Beside ``refcoco_grounding/*`` stands ``refcoco_grounding_strict/*``."""

    task: ClassVar = "refcoco_grounding"
    unit_box_tasks: ClassVar = (task,)
    columns: ClassVar = {"question_id": column.identifier, "answer": column.texts, "bbox": column.four_numbers}
    slots: ClassVar = ("descriptions",)
    scored: ClassVar = ("bbox", "corners", "image_width", "image_height")

    def document(self, doc: Doc, part: int, sizes: Sequence[tuple[int, int]]) -> Doc:
        """``corners`` are the box in pixels, ``bbox`` is in fractions of the picture."""
        x, y, wide, high = doc["bbox"]
        return doc | annotated_box(doc["bbox"], sizes) | {"corners": (x, y, x + wide, y + high)}

    def fill(self, doc: Doc) -> Mapping[str, str]:
        stripped = [answer.strip() for answer in doc["answer"]]
        return {"descriptions": ", ".join(f'"{answer}"' for answer in stripped if answer) or '""'}

    def score_as_said(self, sample: Sample, answer: str) -> Scores:
        """The published rule, for which boxes are taken as the model wrote them."""
        doc, boxes = sample.target, parse_json_boxes(answer)
        sides = (doc["image_width"], doc["image_height"]) * 2
        thousandths = [tuple(v / 1000 * side for v, side in zip(box, sides, strict=True)) for box in boxes]
        tried = [box for pair in zip(boxes, thousandths, strict=True) for box in pair]
        target = tuple(doc["corners"])
        return _scores(self.task, target, max(tried, key=lambda box: box_iou(target, box), default=NO_BOX))

    def score_document(self, doc: Doc, text: str) -> Scores:
        """The strict rule: the first box, in fractions of the picture."""
        boxes = parse_json_boxes(text)
        scores = _scores(f"{self.task}_strict", tuple(doc["bbox"]), boxes[0] if boxes else NO_BOX)
        return scores | {f"{self.task}/parsed": float(bool(boxes))}


def _scores(name: str, target: Box, box: Box) -> Scores:
    overlap = box_iou(target, box)
    return {
        **{f"{name}/ACC@{threshold}": float(overlap >= threshold) for threshold in THRESHOLDS},
        f"{name}/IoU": overlap,
        f"{name}/Center_ACC": center_inside(target, box),
    }
