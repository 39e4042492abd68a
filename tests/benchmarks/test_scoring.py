"""Scores against lmms-eval's own, per sample and as means."""

import json
from pathlib import Path

import pytest

from nuwa.benchmarks.scoring import (
    NO_BOX,
    box_iou,
    center_inside,
    exact_match,
    grounding_scores,
    pad_offset,
    parse_box,
    to_original_frame,
    to_padded_frame,
)

GOLDEN = Path(__file__).parents[1] / "golden/scoring"
REFCOCO = ["refcoco_bbox_rec_test", "refcoco+_bbox_rec_testA", "refcocog_bbox_rec_test"]
THRESHOLDS = (0.1, 0.3, 0.5, 0.7, 0.9)


def golden(name):
    return json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))


def refcoco_scores(sample):
    """The metrics of lmms-eval by its names."""
    target, box = sample["doc"]["bbox"], parse_box(sample["prediction"].strip()) or NO_BOX
    overlap = box_iou(target, box)
    scores = {f"refcoco_ACC@{t}": float(overlap >= t) for t in THRESHOLDS}
    return scores | {"refcoco_IoU": overlap, "refcoco_Center_ACC": center_inside(target, box)}


def mean(rows):
    return {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}


@pytest.mark.parametrize("name", REFCOCO)
def test_refcoco_matches_lmms_eval(name):
    data = golden(name)
    rows = []
    for sample in data["samples"]:
        assert list(parse_box(sample["prediction"].strip()) or NO_BOX) == sample["parsed"], sample["prediction"]
        rows.append(refcoco_scores(sample))
        for metric, value in sample["per_sample"].items():
            mine = next(rows[-1][key] for key in rows[-1] if key.endswith(metric.removeprefix("refcoco_")))
            assert mine == pytest.approx(float(value), abs=1e-6), (metric, sample["prediction"])
    assert mean(rows) == pytest.approx(data["aggregate"], abs=1e-6)
    for span, expected in data["sub_aggregates"].items():
        first, last = map(int, span.split(":"))
        assert mean(rows[first:last]) == pytest.approx(expected, abs=1e-6)


def test_real_refcoco_rows_in_both_frames():
    data = golden("real_refcoco_nuwa")
    by_style = {}
    for sample in data["samples"]:
        scores = refcoco_scores(sample)
        assert scores["refcoco_IoU"] == pytest.approx(sample["per_sample"]["IoU"], abs=1e-6)
        by_style.setdefault(sample["style"], []).append(scores)
        doc = sample["doc"]
        if sample["style"] == "padded_frame_2dec":  # scored in its own frame, the answer is right to two decimals
            target = to_padded_frame(doc["bbox"], doc["image_width"], doc["image_height"])
            assert box_iou(target, parse_box(sample["prediction"])) > 0.9
    for style, expected in data["aggregate"].items():
        assert mean(by_style[style]) == pytest.approx(expected, abs=1e-6)


def test_gqa_matches_lmms_eval():
    data = golden("gqa")
    rows = [exact_match([sample["target"]], sample["prediction"]) for sample in data["samples"]]
    assert rows == [sample["per_sample"]["exact_match"] for sample in data["samples"]]
    assert sum(rows) / len(rows) == pytest.approx(data["aggregate"]["exact_match"], abs=1e-6)


@pytest.mark.parametrize("name", ["pope", "real_pope"])
def test_pope_accuracy_matches_lmms_eval(name):
    data = golden(name)
    rows = [
        exact_match([sample["doc"]["answer"]], sample["prediction"], ignore_punctuation=False)
        for sample in data["samples"]
    ]
    assert rows == [sample["per_sample"]["score"] for sample in data["samples"]]
    assert sum(rows) / len(rows) == pytest.approx(data["aggregate"]["pope_accuracy"], abs=1e-6)


def test_exact_match_takes_any_accepted_answer():
    assert exact_match(["sofa", "couch"], " Couch.") == 1
    assert exact_match(["sofa", "couch"], "couches") == 0
    assert exact_match(["t-shirt"], "TShirt") == 1


def test_grounding_scores_at_the_threshold():
    half = grounding_scores((0, 0, 1, 1), "[0, 0, 0.5, 1]")
    assert half == {"vg/acc@0.5": 1.0, "vg/miou": 0.5, "vg/center_acc": 1.0, "vg/parsed": 1.0}
    silent = grounding_scores((0.2, 0.2, 1, 1), "I cannot say")
    assert silent == {"vg/acc@0.5": 0.0, "vg/miou": 0.0, "vg/center_acc": 0.0, "vg/parsed": 0.0}


@pytest.mark.parametrize("box", [(0.5, 0.5, 0.5, 0.5), NO_BOX])
def test_two_points_have_no_overlap(box):
    assert box_iou(box, box) == 0.0


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (333, 500), (7, 300), (64, 64)])
def test_frames_are_inverse_and_leave_overlap_alone(size):
    first, second = (0.1, 0.25, 0.6, 0.75), (0.2, 0.2, 0.7, 0.8)
    padded = [to_padded_frame(box, *size) for box in (first, second)]
    assert to_original_frame(padded[0], *size) == pytest.approx(first)
    assert box_iou(*padded) == pytest.approx(box_iou(first, second))
    side, left, top = pad_offset(*size)
    assert to_padded_frame((0, 0, 1, 1), *size) == pytest.approx(
        (left / side, top / side, (left + size[0]) / side, (top + size[1]) / side)
    )
