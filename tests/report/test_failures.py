"""Outcomes, sizes, places and box offsets of two journals that are written by hand."""

import csv
import json
import math

import pytest

from nuwa.evaluation.journal import answered
from nuwa.report.failures import count_outcomes, failure_cases, is_right, main, mean_offsets, place_of, thirds

SQUARE = [0.1, 0.1, 0.3, 0.3]


def vqa(name, score):
    return {"id": name, "task": "vqa", "target": ["yes"], "prediction": "?", "scores": {"vqa/exact_match": score}}


def vg(name, target, said, score):
    return {
        "id": name,
        "task": "vg",
        "target": target,
        "prediction": said,
        "scores": {"vg/acc@0.5": score, "vg/x": 1.0},
    }


FIRST = [
    vqa("a", 1.0),
    vqa("b", 0.6),
    vg("c", SQUARE, "[0.1, 0.1, 0.3, 0.3]", 1.0),
    vg("d", [0.5, 0.7, 0.6, 0.9], "[0.5, 0.7, 0.6, 0.9]", 1.0),
    vg("e", [0.4, 0.4, 0.6, 0.9], "nowhere", 0.0),
]
SECOND = [
    vqa("a", 1.0),
    vqa("b", 0.4),
    vg("c", SQUARE, "[0.2, 0.1, 0.4, 0.3]", 1.0),
    vg("d", [0.5, 0.7, 0.6, 0.9], "[0.3, 0.6, 0.4, 0.8]", 0.0),
    vg("e", [0.4, 0.4, 0.6, 0.9], "[0.1, 0.1, 0.3, 0.6]", 0.0),
]
for row in FIRST + SECOND:
    row["status"] = "ok"
FIRST.append({"id": "f", "task": "vg", "status": "failed", "reason": "unreadable", "scores": {}})
SECOND.append(vg("f", SQUARE, "[0, 0, 1, 1]", 0.0) | {"status": "ok"})


def test_outcomes_sizes_and_places():
    cases = failure_cases(answered(FIRST), answered(SECOND))
    assert [case.outcome for case in cases] == ["both", "only first", "both", "only first", "neither"]
    assert [case.size for case in cases] == ["", "", "medium", "small", "large"]
    assert [case.place for case in cases[2:]] == ["top left", "bottom centre", "middle centre"]
    assert count_outcomes(cases, "task") == [
        {"task": "vg", "both": 1, "only first": 1, "only second": 0, "neither": 1},
        {"task": "vqa", "both": 1, "only first": 1, "only second": 0, "neither": 0},
    ]
    swapped = failure_cases(answered(SECOND), answered(FIRST))
    assert [case.outcome for case in swapped] == ["both", "only second", "both", "only second", "neither"]


def test_offsets():
    first_all, first_wrong, second_all, second_wrong = mean_offsets(
        failure_cases(answered(FIRST), answered(SECOND)), ["one", "two"]
    )
    assert (first_all["n"], first_all["dx"], first_all["dy"]) == (2, pytest.approx(0), pytest.approx(0))
    assert first_wrong["n"] == 0 and math.isnan(first_wrong["dx"])
    assert second_all["dx"] == pytest.approx((0.1 - 0.2 - 0.3) / 3) and second_all["dy"] == pytest.approx(-0.4 / 3)
    assert second_wrong["n"] == 2 and second_wrong["towards top left"] == 1
    assert second_wrong["dx error"] == pytest.approx(0.05)


def test_thirds_and_places():
    assert thirds([5, 1, 9]) == ["medium", "small", "large"]
    assert thirds([1, 1, 1, 1]) == ["small"] * 4
    assert thirds([1, 2, 3, 4]) == ["small", "small", "medium", "large"]
    assert place_of((0.7, 0.0, 0.9, 0.2)) == "top right" and place_of((0.9, 0.9, 1.5, 1.5)) == "bottom right"


def test_what_is_right():
    assert is_right(vqa("a", 0.5)) and not is_right(vqa("a", 0.3)) and not is_right({"scores": {}})


def write_run(folder, rows, status="done", method=None, **options):
    folder.mkdir()
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {"budget": {"average": 64.0, "ratio": None}, "pruner": options}
    result = {"status": status, "method": method or folder.name, "position": "pesp", "config": config}
    result |= {"metrics": {}, "n": len(rows), "reason": "none", "run_key": folder.name}
    (folder / "result.json").write_text(json.dumps(result))
    return str(folder)


def test_what_is_no_pair_of_scored_samples():
    """Other samples of the same names are another data set; what no judge has marked is neither right nor wrong."""
    moved = [*FIRST[:1], vqa("b", 0.0) | {"status": "ok", "target": ["no"]}]
    with pytest.raises(ValueError, match="two data sets: b has the target"):
        failure_cases(answered(FIRST), moved)
    unmarked = [row | {"scores": {}} for row in answered(FIRST)]
    assert [case.id for case in failure_cases(unmarked[:2] + FIRST[2:3], answered(SECOND))] == ["c"]
    with pytest.raises(ValueError, match="no scored sample in common"):
        failure_cases(unmarked, answered(SECOND))


def test_outcomes_by_part():
    rows = [vqa(name, score) | {"status": "ok"} for name, score in (("a", 1.0), ("b", 0.0), ("c", 1.0))]
    for row, part in zip(rows, ("small", "small", "large"), strict=True):
        row["scores"] |= {"vqa/parsed": 1.0, f"vqa/exact_match/{part}": row["scores"]["vqa/exact_match"]}
    assert count_outcomes(failure_cases(rows, rows), "part") == [
        {"part": "large", "both": 1, "only first": 0, "only second": 0, "neither": 0},
        {"part": "small", "both": 1, "only first": 0, "only second": 0, "neither": 1},
    ]


def test_runs_of_one_method_are_told_apart(tmp_path, capsys):
    """By what differs from the method's file, else by their keys."""
    runs = [write_run(tmp_path / name, FIRST, method="nuwa", region=name == "a") for name in "ab"]
    assert main(runs) == 0
    assert "first: nuwa 64 pesp   second: nuwa 64 pesp region=False   5 samples" in capsys.readouterr().out
    assert main([runs[0], write_run(tmp_path / "c", FIRST, method="nuwa", region=True)]) == 0
    assert "first: nuwa 64 pesp a   second: nuwa 64 pesp c" in capsys.readouterr().out


def test_command(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    runs = [write_run(tmp_path / name, rows) for name, rows in (("nuwa", FIRST), ("fastv", SECOND))]
    assert main(runs) == 0
    said = capsys.readouterr().out
    assert "first: nuwa 64 pesp   second: fastv 64 pesp   5 samples" in said and "bottom centre" in said
    out = tmp_path / "fastv/failures"
    with (out / "cases.csv").open() as file:
        assert [row["outcome"] for row in csv.DictReader(file)].count("only first") == 2
    assert (out / "offsets.png").stat().st_size > 1000 and (out / "offsets.csv").exists()
    assert main([runs[0], write_run(tmp_path / "other", [vqa("z", 1.0) | {"status": "ok"}])]) == 1
    assert "no scored sample in common" in capsys.readouterr().err
    assert main([runs[0], write_run(tmp_path / "broken", FIRST, "failed")]) == 1
    assert "no finished run" in capsys.readouterr().err
