"""RefCOCO, RefCOCO+ and RefCOCOg: find what an expression means.

Source: lmms-eval v0.3.4 (a863517), tasks ``*_bbox_rec_*``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from nuwa.benchmarks import column_checks as column
from nuwa.benchmarks.base import Doc, Scores
from nuwa.benchmarks.hub import Entry, HubBenchmark
from nuwa.benchmarks.scoring import NO_BOX, box_iou, center_inside, in_both_frames, parse_box, unit_box
from nuwa.samples import SampleError

THRESHOLDS = (0.5, 0.1, 0.3, 0.7, 0.9)  # the printed one first


def annotated_box(bbox: Sequence[float], sizes: Sequence[tuple[int, int]]) -> Doc:
    """A box (x, y, width, height in pixels) as fractions of the one picture, and the picture's size.

    Raises:
        SampleError: there is not one picture, or the box is empty or leaves it.
    """
    if len(sizes) != 1:
        raise SampleError(f"an expression needs one picture, the row has {len(sizes)}")
    (width, height), (x, y, wide, high) = sizes[0], bbox
    what = f"bbox {bbox} (x, y, width, height)"
    if wide <= 0 or high <= 0:
        raise SampleError(f"{what} is empty or reversed")
    box = unit_box((x, y, x + wide, y + high), width, height, what)
    return {"bbox": box, "image_width": width, "image_height": height}


@dataclass(kw_only=True, eq=False)
class RefCOCO(HubBenchmark):
    """One sample per expression; a row holds several for one box, which becomes fractions of the picture's sides.

    ``box_frame`` is the frame in which the answer's box is taken to be. The paper's numbers take the ``original``,
    although LLaVA-1.5 answers in the frame of the ``padded`` square.
    """

    box_frame: Literal["original", "padded"] = "original"

    task: ClassVar = "refcoco"
    unit_box_tasks: ClassVar = (task,)
    columns: ClassVar = {"question_id": column.identifier, "answer": column.texts, "bbox": column.four_numbers}
    keys: ClassVar = ("question_id", "answer")
    slots: ClassVar = ("expression",)
    scored: ClassVar = ("bbox", "image_width", "image_height")

    def entries(self, row: int, keys: Doc) -> Iterator[Entry]:
        """Ids contain the row: the hub joins two splits of the literature that share boxes."""
        for number in range(len(column.texts(keys["answer"]))):
            yield f"{column.identifier(keys['question_id'])}-{row}-{number}", None

    def document(self, doc: Doc, part: int, sizes: Sequence[tuple[int, int]]) -> Doc:
        return {"expression": doc["answer"][part]} | annotated_box(doc["bbox"], sizes)

    def score_document(self, doc: Doc, text: str) -> Scores:
        """IoU and its thresholds in ``box_frame``, and a few in the other frame."""
        found = parse_box(text.strip())
        box = found or NO_BOX
        size = doc["image_width"], doc["image_height"]
        target, other, other_target = in_both_frames(tuple(doc["bbox"]), *size, self.box_frame)
        overlap, other_overlap = box_iou(target, box), box_iou(other_target, box)
        return {
            **{f"refcoco/ACC@{threshold}": float(overlap >= threshold) for threshold in THRESHOLDS},
            "refcoco/IoU": overlap,
            "refcoco/Center_ACC": center_inside(target, box),
            "refcoco/parsed": float(found is not None),
            f"refcoco_{other}/ACC@0.5": float(other_overlap >= 0.5),
            f"refcoco_{other}/IoU": other_overlap,
        }
