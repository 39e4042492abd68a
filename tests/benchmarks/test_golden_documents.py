"""Documents, charts, text, real-world and spatial questions: prompts, scores and sums of lmms-eval's own functions.

Every golden row goes through the shipped YAML, from a jsonl with the published columns to the printed numbers.
"""

import json
import math
from pathlib import Path

import pytest
from helpers.published import benchmark
from PIL import Image

from nuwa.benchmarks.answers import edit_distance
from nuwa.benchmarks.cv_bench import CVBench
from nuwa.benchmarks.hallusion import HallusionBench
from nuwa.benchmarks.ocrbench import OCRBench
from nuwa.benchmarks.refcoco_grounding import RefCOCOGrounding, parse_json_boxes
from nuwa.benchmarks.screenspot import ScreenSpot, fractions
from nuwa.benchmarks.vstar import VStar, on_lines
from nuwa.models.boxes import to_unit_boxes
from nuwa.samples import Sample, SampleError

GOLDEN = Path(__file__).parents[1] / "golden/scoring"
NUMBERS = {
    "docvqa_val": {"anls": "docvqa_val/anls"},
    "infovqa_val": {"anls": "infovqa_val/anls"},
    "chartqa": {
        "relaxed_overall": "chartqa/relaxed_accuracy",
        "relaxed_human_split": "chartqa/relaxed_accuracy/human_test",
        "relaxed_augmented_split": "chartqa/relaxed_accuracy/augmented_test",
    },
    "realworldqa": {"exact_match": "realworldqa/letter"},
    "ocrbench": {"accuracy": "ocrbench/accuracy", "recognition": "ocrbench/accuracy/Recognition"},
    "mmstar": {
        "average": "mmstar/average",
        **{
            name: f"mmstar/{name}"
            for name in (
                "coarse perception",
                "fine-grained perception",
                "instance reasoning",
                "logical reasoning",
                "science & technology",
                "math",
            )
        },
    },
    "vizwiz_vqa_val": {"exact_match": "vizwiz_vqa/exact_match"},
    "vstar_bench": {
        "vstar_overall_acc": "vstar_bench/accuracy",
        **{f"vstar_{name}_acc": f"vstar_bench/accuracy/{name}" for name in ("direct_attributes", "relative_position")},
    },
    "cv_bench_2d": {"cv_bench_acc": "cv_bench/accuracy", "ade20k_2d": "cv_bench/accuracy/ADE20K"},
    "screenspot_v2": {
        "action": "screenspot_v2/accuracy",
        "text": "screenspot_v2/accuracy/text",
        "icon": "screenspot_v2/accuracy/icon",
        "pixels_action": "screenspot_v2_pixels/accuracy",
        "pixels_text": "screenspot_v2_pixels/accuracy/text",
        "pixels_icon": "screenspot_v2_pixels/accuracy/icon",
    },
    "hallusion_bench_image": {name: f"hallusion_judge_free/{name}" for name in ("aAcc", "fAcc", "qAcc")},
    "refcoco_grounding_test": {
        name: f"refcoco_grounding/{name}" for name in ("ACC@0.5", "IoU", "ACC@0.9", "Center_ACC")
    },
}
"""Data set -> lmms-eval's name of a number -> ours. The first is the headline, and of each sample its score."""
SAME_RULES = {"infovqa_val": "docvqa_val"}


def through_jsonl(name, folder):
    """A data set made of its golden rows; the rows themselves; and what lmms-eval prints for them."""
    data = json.loads((GOLDEN / f"{SAME_RULES.get(name, name)}.json").read_text(encoding="utf-8"))
    Image.new("RGB", tuple(data.get("size", (8, 8)))).save(folder / "a.png")
    lines = [json.dumps({"image": "a.png"} | sample["doc"]) + "\n" for sample in data["samples"]]
    (folder / "data.jsonl").write_text("".join(lines), encoding="utf-8")
    return benchmark(name, folder), data["samples"], data["aggregate"]


@pytest.mark.parametrize("name", NUMBERS)
def test_prompts_scores_and_numbers(name, tmp_path):
    dataset, golden, aggregate = through_jsonl(name, tmp_path)
    rows, mine = [], {}
    for sample in (dataset[index] for index in range(len(dataset))):
        theirs = golden[sample.meta["row"]]
        assert sample.text == theirs["prompt"]
        said = theirs["prediction"]
        scores = dataset.score_as_said(sample, said) | dataset.score(sample, said)
        rows.append({"target": sample.target, "prediction": said, "scores": scores})
        mine[sample.meta["row"]] = next(iter(scores.values()))
    for row, theirs in enumerate(golden):
        assert mine[row] == pytest.approx(theirs["score"], abs=1e-9), theirs
    found = dataset.metrics(json.loads(json.dumps(rows)))
    assert {theirs: found[ours] for theirs, ours in NUMBERS[name].items()} == pytest.approx(aggregate)
    assert next(iter(found)) == next(iter(NUMBERS[name].values()))


def test_edit_distance_by_the_recursive_definition():
    def slow(first, second):
        if not first or not second:
            return len(first or second)
        step = slow(first[1:], second[1:]) + (first[0] != second[0])
        return min(step, slow(first[1:], second) + 1, slow(first, second[1:]) + 1)

    words = ("", "a", "ab", "ba", "abc", "bcd", "banan", "ananas")
    assert all(edit_distance(a, b) == slow(a, b) for a in words for b in words)


@pytest.mark.parametrize(("said", "read"), [("(B)", 1.0), ("no idea", 0.0), ("", 0.0)])
def test_realworldqa_says_how_many_answers_hold_a_letter(said, read, tmp_path):
    dataset, golden, _ = through_jsonl("realworldqa", tmp_path)
    accepted = [row["doc"]["answer"] for row in golden]
    letter, words = (dataset[accepted.index(one)] for one in ("A", "Uphill"))
    assert dataset.score(letter, said)["realworldqa/parsed"] == read
    assert "realworldqa/parsed" not in dataset.score(words, said)


def test_an_option_that_holds_brackets_stays():
    """The reference loses it, and calls the third option B."""
    text = "Which? (A) red (B) blue (dark) (C) green"
    assert on_lines(text) == "Which?\nA. red\nB. blue (dark)\nC. green"


@pytest.mark.parametrize(
    ("kind", "doc", "read", "unread"),
    [(VStar, {"label": "A", "category": "x"}, ["a", "is it D?"], ["", "no", "red and blue"]),
     (CVBench, {"answer": "A", "choices": ["one", "two"], "task": "x", "source": "y"}, ["(b)", "A"], ["C", "", "2"]),
     (ScreenSpot, {"bbox": [0, 0, 1, 1], "data_type": "text", "image_width": 8, "image_height": 8},
      ["[3, 4]", "5 6"], ["", "at 5"]),
     (HallusionBench, {"gt_answer": "no"}, ["No.", "I say yes"], ["Nothing", "", "Norway"])],
)  # fmt: skip
def test_answers_that_could_not_be_read_are_told_from_wrong_ones(kind, doc, read, unread):
    def parsed(text):
        return kind.unloaded({}).score_document(doc, text)[f"{kind.task}/parsed"]

    assert [*map(parsed, read)] == [1.0] * len(read) and [*map(parsed, unread)] == [0.0] * len(unread)


@pytest.mark.parametrize("box", [[0.5, 0.1, 0.4, 0.2], [0.1, 0.1, 1.2, 0.9], [10, 20, 30, 40], [-0.1, 0, 1, 1]])
def test_boxes_of_screens_are_fractions(box):
    with pytest.raises(ValueError, match="must be fractions"):
        fractions(box)


def test_rows_that_ask_nothing_sensible():
    with pytest.raises(ValueError, match="must not be blank"):
        OCRBench.columns["answer"](["STOP", " "])
    with pytest.raises(SampleError, match=r"letter of one of 2 choices, not '\(C\)'"):
        CVBench.unloaded({}).document({"answer": "(C)", "choices": ["a", "b"]}, 0, [(8, 8)])
    with pytest.raises(SampleError, match="no picture; the split image"):
        HallusionBench.unloaded({}).document({}, 0, [])
    with pytest.raises(SampleError, match="needs one picture, the row has 0"):
        ScreenSpot.unloaded({}).document({}, 0, [])


GROUNDING = {"bbox": (0.25, 0.25, 0.5, 0.5), "corners": (160, 120, 320, 240), "image_width": 640, "image_height": 480}


@pytest.mark.parametrize(
    ("said", "published", "strict"),
    [('[{"bbox_2d": [250, 250, 500, 500]}]', 1.0, 1.0), ('[{"bbox_2d": [160, 120, 320, 240]}]', 1.0, 0.0),
     ('[{"bbox_2d": [0, 0, 9, 9]}, {"bbox_2d": [250, 250, 500, 500]}]', 1.0, 0.0), ("[0.25, 0.25, 0.5, 0.5]", 0.0, 1.0),
     ("(250,250),(500,500)", 0.0, 1.0), ('{"bbox_2d": [500, 500, 250, 250]}', 0.0, 0.0), ("no dog", 0.0, 0.0)],
)  # fmt: skip
def test_the_published_grounding_rule_flatters_and_the_strict_one_does_not(said, published, strict):
    """Of a model that writes thousandths: pixels, and a second box that is right, count in the published rule only."""
    dataset, sample = RefCOCOGrounding.unloaded({}), Sample("x", "refcoco_grounding", (), "", GROUNDING)
    assert dataset.score_as_said(sample, said)["refcoco_grounding/ACC@0.5"] == published
    scores = dataset.score(sample, to_unit_boxes(said, (1000, 1000)))
    assert scores["refcoco_grounding_strict/ACC@0.5"] == strict
    assert scores["refcoco_grounding/parsed"] == float(said != "no dog")


@pytest.mark.parametrize(
    "text",
    ["[" * 5000, "[" * 5000 + "1,2,3,4" + "]" * 5000, '{"bbox": [NaN, 0, 1, 1]}', f"[1{'0' * 400}, 0, 1, 1]",
     "[1e999, 0, 1, 1]", "null", "{}", '{"bbox": null}', "[[], {}]", "```json\n```", "]["],
)  # fmt: skip
def test_json_that_holds_no_box_raises_nothing(text):
    assert all(len(box) == 4 and all(map(math.isfinite, box)) for box in parse_json_boxes(text))
