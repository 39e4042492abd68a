"""Documents, charts, text, real-world and spatial questions: prompts, scores and sums of lmms-eval's own functions.

Every golden row goes through the shipped YAML, from a jsonl with the published columns to the printed numbers.
"""

import json
from pathlib import Path

import pytest
from helpers.published import benchmark
from PIL import Image

from nuwa.benchmarks.answers import edit_distance

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
        scores = dataset.score(sample, theirs["prediction"])
        rows.append({"target": sample.target, "prediction": theirs["prediction"], "scores": scores})
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
