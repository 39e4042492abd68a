"""Runs compared by their choices: which are paired, what is refused, and p-values beside ones worked out by hand."""

import csv
import io
import json

import numpy as np
import pytest
from helpers.made_up import result, row, runs_of

from nuwa.evaluation.pairs import holm, mcnemar, paired_tests
from nuwa.evaluation.result import write_result
from nuwa.report.compare import main
from nuwa.report.sides import named_pairs, parse_wanted, selected


def run(key, method, right, average=64, position="pesp", dataset="gqa", **extra):
    """A result, and its answers: those of 20 samples, of which the first ``right`` are right."""
    made = result(method, {"vqa/exact_match": right / 20}, dataset, average=average, position=position, **extra)
    scores = [{"vqa/exact_match": float(number < right), "vqa/other": 0.0} for number in range(20)]
    return made | {"run_key": key, "n": 20}, [row(str(n), scores=one, prediction="x") for n, one in enumerate(scores)]


SWEEP = (
    run("nuwa-64-pesp", "nuwa", 18), run("nuwa-64-perc", "nuwa", 12, position="perc"),
    run("nuwa-128-pesp", "nuwa", 20, 128), run("zip-64-pesp", "visionzip", 10),
    run("zip-64-perc", "visionzip", 11, position="perc"), run("zip-128-pesp", "visionzip", 11, 128),
    run("random-64-pesp", "random", 3), run("other-data", "nuwa", 5, dataset="pope"),
)  # fmt: skip
RUNS = runs_of([content for content, _ in SWEEP])


@pytest.fixture
def outputs(tmp_path):
    """The sweep as runs leave it."""
    for content, answers in SWEEP:
        folder = tmp_path / content["run_key"]
        folder.mkdir()
        write_result(folder, content)
        (folder / "predictions.jsonl").write_text("".join(json.dumps(one) + "\n" for one in answers), encoding="utf-8")
    return tmp_path


def keys(a, b):
    return [(one.run_key, other.run_key) for one, other in named_pairs(RUNS, parse_wanted(a), parse_wanted(b))]


def printed(capsys):
    return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))


def test_holm_by_its_definition():
    """Each p-value against those that are not larger: the largest of (how many are left) times p."""
    rng = np.random.default_rng(0)
    for size in (1, 2, 5, 9):
        values = [*rng.uniform(0, 0.4, size), 0.03, 0.03]
        for value, found in zip(values, holm(values), strict=True):
            smaller = [p for p in values if p <= value]
            by_definition = max(sum(q >= p for q in values) * p for p in smaller)
            assert found == pytest.approx(min(1.0, by_definition))
    assert holm([]) == []


def test_pairs_agree_in_what_no_side_names():
    same_budget = [("nuwa-64-pesp", "zip-64-pesp"), ("nuwa-64-perc", "zip-64-perc"), ("nuwa-128-pesp", "zip-128-pesp")]
    assert keys(["pruner=nuwa"], ["pruner=visionzip"]) == same_budget


def test_a_choice_of_one_side_holds_for_both_unless_both_name_it():
    both = [("nuwa-64-pesp", "zip-64-pesp"), ("nuwa-128-pesp", "zip-128-pesp")]
    assert keys(["pruner=nuwa"], ["pruner=visionzip", "position=pesp"]) == both
    assert keys(["pruner=nuwa", "position=pesp", "budget=avg64"], ["pruner=visionzip", "position=perc"]) == [
        ("nuwa-64-pesp", "zip-64-perc")
    ]
    assert keys(["budget=64"], ["budget=128", "pruner=nuwa"]) == [("nuwa-64-pesp", "nuwa-128-pesp")]


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [("pruner", "pruner=nuwa", "pruner: give a choice and its value"),
     ("pruner=nuwo", "pruner=nuwa", "pruner=nuwo: no run was made with it; there are nuwa, random, visionzip"),
     ("prunner=nuwa", "pruner=nuwa", "prunner=nuwa: no run has this choice; there are .*pruner"),
     ("pruner=random", "budget=128", "pruner=random budget=128: no run has all of these"),
     ("pruner=random", "pruner=random", "both sides name the run random-64-pesp"),
     ("run=zip-128-pesp", "run=random-64-pesp", "runs of the two sides differ in pruner.*budget.average.*, too")],
)  # fmt: skip
def test_sides_that_name_nothing_are_refused(a, b, message):
    with pytest.raises(ValueError, match=message):
        keys([a], [b])


def test_options_of_a_method_are_choices():
    changed = runs_of([content for content, _ in (run("x", "nuwa", 1, options={"d_thresh": 18}), SWEEP[0])])
    assert [one.run_key for one in selected(changed, {"pruner.d_thresh": "18"})] == ["x"]


def test_an_option_that_is_named_frees_no_other():
    several = [
        run(f"{near}-{region}", "nuwa", 1, options={"d_thresh": near, "region": region})[0]
        for near in (18.0, 280.0)
        for region in (True, False)
    ]
    pairs = named_pairs(runs_of(several), {"pruner.region": "true"}, {"pruner.region": "false"})
    assert [(one.run_key, other.run_key) for one, other in pairs] == [
        ("18.0-True", "18.0-False"), ("280.0-True", "280.0-False"),
    ]  # fmt: skip
    assert [one.run_key for one in selected(runs_of(several), {"pruner.d_thresh": "280"})] == [
        "280.0-True",
        "280.0-False",
    ]


def test_two_sides_on_the_command_line(outputs, capsys):
    assert (
        main([str(outputs), "--a", "pruner=nuwa", "--b", "pruner=visionzip", "position=pesp", "--format", "csv"]) == 0
    )
    rows = printed(capsys)
    assert [(one["budget"], one["first run"], one["second run"]) for one in rows] == [
        ("64", "nuwa-64-pesp", "zip-64-pesp"), ("128", "nuwa-128-pesp", "zip-128-pesp"),
    ]  # fmt: skip
    exact = [mcnemar(8, 0), mcnemar(9, 0)]
    assert [float(one["p"]) for one in rows] == pytest.approx(exact, abs=1e-4)
    assert [float(one["p, Holm"]) for one in rows] == pytest.approx([exact[0], 2 * exact[1]], abs=1e-4)
    assert {one["metric"] for one in rows} == {"vqa/exact_match"}  # the headline alone


def test_a_sweep_is_a_matrix_of_those_that_can_be_compared(outputs, capsys):
    assert main([str(outputs), "--format", "csv"]) == 0
    rows = printed(capsys)
    assert [one["run"] for one in rows] == [
        "nuwa-64-perc", "nuwa-64-pesp", "nuwa-128-pesp", "random-64-pesp", "zip-64-perc", "zip-64-pesp", "zip-128-pesp",
    ]  # fmt: skip
    number = {one["run"]: one[""] for one in rows}
    first = rows[int(number["nuwa-64-pesp"]) - 1]
    assert first[number["nuwa-64-pesp"]] == ""
    second_smallest = f"{20 * mcnemar(15, 0):.2g}"  # of 21: nuwa at 128 tokens is further ahead of random
    assert first[number["random-64-pesp"]] == f"+0.750 [{second_smallest}]"
    assert rows[int(number["random-64-pesp"]) - 1][number["nuwa-64-pesp"]] == f"-0.750 [{second_smallest}]"
    assert first[number["nuwa-128-pesp"]] == "-0.100 [1]"
    assert main([str(outputs)]) == 0
    assert "in brackets p, corrected for 21 tests (Holm)" in capsys.readouterr().out


def test_what_cannot_be_compared(outputs, capsys):
    with pytest.raises(SystemExit, match="2"):
        main([str(outputs), "--a", "pruner=nuwa"])
    assert "--a and --b name two sides" in capsys.readouterr().err
    assert main([str(outputs / "other-data")]) == 1
    assert "fewer than two finished runs" in capsys.readouterr().err


def test_headlines_are_the_first_of_each_task():
    one = [row("a", task="vg", scores={"vg/acc": 1.0, "vg/iou": 0.7, "vg_padded/acc": 1.0})]
    two = [row("b", scores={"vqa/exact_match": 0.0})]
    found = paired_tests([*one, *two], [*one, *two], headlines=True)
    assert [test.metric for test in found] == ["vg/acc", "vqa/exact_match"]


def test_matrices_of_several_seeds_are_told_apart(tmp_path, capsys):
    for seed in range(2):
        for method in ("nuwa", "random"):
            content, answers = run(f"{method}-{seed}", method, 10 + seed, seed=seed)
            (tmp_path / content["run_key"]).mkdir()
            write_result(tmp_path / content["run_key"], content)
            lines = [json.dumps(one) + "\n" for one in answers]
            (tmp_path / content["run_key"] / "predictions.jsonl").write_text("".join(lines))
    assert main([str(tmp_path), "--format", "markdown"]) == 0
    said = capsys.readouterr().out
    assert all(f"less the column's (llava_1_5_7b, gqa, seed {seed})" in said for seed in range(2))
