"""Paired tests against values worked out by hand or counted in full, and the mean of ratios."""

import itertools
import json

import numpy as np
import pytest
from helpers.made_up import row

from nuwa.benchmarks.local import Local
from nuwa.evaluation import statistics
from nuwa.evaluation.pairs import Benchmarked, mcnemar, mean_retention, paired_tests, permutation
from nuwa.report.compare import main


def rows(values, task="t", **cells):
    """Rows with one metric."""
    return [row(f"{task}{i}", task=task, scores={f"{task}/m": float(v)}, **cells) for i, v in enumerate(values)]


MEANS = Local.unloaded({})
"""A benchmark whose numbers are the means of its scores."""


def test_mcnemar_by_hand():
    assert mcnemar(0, 0) == 1.0 and mcnemar(3, 3) == 1.0
    assert mcnemar(0, 5) == mcnemar(5, 0) == pytest.approx(2 / 32)
    assert mcnemar(1, 8) == pytest.approx(2 * (1 + 9) / 512)
    assert mcnemar(400, 500) == pytest.approx(0.00096, abs=1e-5)


def test_permutation_against_all_signs():
    differences = [0.4, -0.1, 0.3, 0.2, 0.25, -0.05, 0.1, 0.3]
    signs = np.array(list(itertools.product((-1, 1), repeat=len(differences))))
    exact = np.mean(np.abs(signs @ differences) >= abs(sum(differences)) - 1e-9)
    assert permutation(differences) == pytest.approx(exact, abs=0.01)
    assert permutation([0.0] * 5) == 1.0
    assert permutation([1.0] * 30) == pytest.approx(1e-4, rel=0.01)
    assert permutation(differences, seed=1) == permutation(differences, seed=1)


def test_the_test_fits_the_metric():
    right, wrong = rows([1] * 12), rows([1] * 4 + [0] * 8)
    (found,) = paired_tests(right, wrong)
    assert (found.test, found.n, found.first, found.second) == ("McNemar", 12, 1.0, pytest.approx(1 / 3))
    assert found.p == mcnemar(8, 0)
    (found,) = paired_tests(rows([0.9, 0.8, 0.7]), rows([0.1, 0.2, 0.3]))
    assert found.test == "permutation"
    grouped = [rows(values, meta={"group": "one"}) for values in ([1] * 12, [0] * 12)]
    (found,) = paired_tests(*grouped)
    assert (found.test, found.p) == ("permutation", 1.0)  # one group is no evidence
    assert paired_tests(rows([1], "a"), rows([1], "b")) == []


def test_samples_are_paired_by_id():
    first, second = rows([1, 0, 1]), rows([1, 0, 1, 0])[::-1]
    (found,) = paired_tests(first, second)
    assert (found.n, found.first, found.p) == (3, found.second, 1.0)


def test_a_metric_that_one_run_lacks_for_a_sample():
    first, second = rows([1, 0, 1]), rows([1, 1, 0])
    del second[1]["scores"]["t/m"]
    (found,) = paired_tests(first, second)
    assert (found.n, found.first, found.second) == (2, 1.0, 0.5)


def test_samples_of_two_data_sets_are_refused():
    """Rows without an id of their own are called alike in every file."""
    first, second = rows([1, 0], target=["red"]), rows([1, 0], target=["two"])
    with pytest.raises(ValueError, match="two data sets: t0 has the target"):
        paired_tests(first, second)
    asked_otherwise = rows([1, 0], target=["red"], prompt="What colour?")
    assert paired_tests(first, asked_otherwise)[0].n == 2


def test_mean_retention(monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 200)
    easy = Benchmarked(rows([1, 1, 0, 0] * 20, "a"), rows([1] * 80, "a"), MEANS, "a/m")
    same = Benchmarked(rows([1, 0] * 20, "b"), rows([1, 0] * 20, "b"), MEANS, "b/m")
    found = mean_retention([easy, same])
    assert found["value"] == pytest.approx(0.75)
    assert 0.68 < found["low"] < 0.75 < found["high"] < 0.82
    assert mean_retention([same]) == {"value": 1.0, "low": 1.0, "high": 1.0}
    alone = statistics.retention(easy.rows, easy.unpruned, MEANS)["a/m"]
    assert mean_retention([easy]) == alone
    with pytest.raises(ValueError, match="b/m has no retention"):
        mean_retention([easy, Benchmarked(rows([1], "b"), rows([0], "b"), MEANS, "b/m")])


def test_command_line(tmp_path, capsys):
    for name, values in (("one", [1] * 8), ("two", [0] * 8), ("other", [])):
        (tmp_path / name).mkdir()
        lines = [json.dumps(one) + "\n" for one in rows(values)]
        (tmp_path / name / "predictions.jsonl").write_text("".join(lines), encoding="utf-8")
    assert main([str(tmp_path / "one"), str(tmp_path / "two")]) == 0
    out = capsys.readouterr().out
    assert [cell.strip() for line in out.splitlines() if "t/m" in line for cell in line.split("│")[1:-1]] == [
        "t/m", "8", "1.0000", "0.0000", "0.0078", "McNemar",
    ]  # fmt: skip
    assert "the same answer, letter by letter: 8 of 8" in out
    assert main([str(tmp_path / "one"), str(tmp_path / "other")]) == 1
    assert "no scored sample in common" in capsys.readouterr().err
    assert main([str(tmp_path / "one"), str(tmp_path / "mistyped")]) == 1
    assert f"{tmp_path / 'mistyped'} has no predictions.jsonl" in capsys.readouterr().err
    lines = [json.dumps(one) + "\n" for one in rows([1] * 8, target="another")]
    (tmp_path / "two" / "predictions.jsonl").write_text("".join(lines), encoding="utf-8")
    assert main([str(tmp_path / "one"), str(tmp_path / "two")]) == 1
    assert "error: two data sets" in capsys.readouterr().err
