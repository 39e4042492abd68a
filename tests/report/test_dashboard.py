"""Scores as flat rows, and a report of several folders on W&B."""

import sys
from pathlib import Path

import plotly.io
import pytest
from helpers.made_up import result, runs_of, write
from helpers.wandb_files import read_run

from nuwa.evaluation.runs import Run
from nuwa.evaluation.scores import scores_of
from nuwa.report.__main__ import main
from nuwa.report.dashboard import log_report, logged_with, one_type_per_column

GQA = "gqa/exact_match"


def records(content):
    return [score.record for score in scores_of(Run.of(content))]


def test_scores_of_a_run_say_how_many_answers_were_not_read():
    metrics = {"pope/f1_score": 1.0, "pope/parsed": 0.5, "vqa/exact_match": 0.5}
    assert [record["unread"] for record in records(result("nuwa", metrics))] == [0.5, 0.5, None]


def test_scores_of_a_run():
    kept = {GQA: {"value": 0.9, "low": 0.85, "high": 0.95}}
    run = result("nuwa", {GQA: 0.55, "gqa/parsed": 1.0}, average=64, options={"d_thresh": 18.0}, retention=kept)
    first, second = records(run)
    assert list(first) == list(second) and (first["run"], first["tokens"]) == (run["run_key"], 64)
    assert (first["method"], first["options"], first["budget"]) == ("nuwa", "d_thresh=18", "64 tokens")
    assert (first["metric"], first["value"], first["retained"], first["retained_high"]) == (GQA, 0.55, 0.9, 0.95)
    assert (second["metric"], second["value"], second["retained"]) == ("gqa/parsed", 1.0, None)


def test_a_failed_run_has_a_score():
    (cell,) = records(result("nuwa", {}, average=64, status="failed"))
    assert (cell["status"], cell["value"], cell["metric"]) == ("failed", None, "")


def test_numbers_are_numbers():
    rows = [{"a": 1.5, "b": "x", "c": ""}, {"a": "", "b": 2, "c": None}]
    assert one_type_per_column(rows) == [{"a": 1.5, "b": "x", "c": None}, {"a": None, "b": "2", "c": None}]


@pytest.fixture
def folders(tmp_path):
    """Runs on two machines."""
    one = write(tmp_path / "one" / "outputs", [result("none", {GQA: 0.62}), result("nuwa", {GQA: 0.583}, average=64)])
    two = write(tmp_path / "two" / "outputs", [result("nuwa", {GQA: 0.5}, average=128)])
    (two / "run0").rename(two / "run2")
    return [str(one), str(two)]


def test_a_report_of_two_machines(folders, capsys):
    assert main([*folders, "--expected", "table5,table7", "--wandb"]) == 0
    (path,) = Path(folders[0]).glob("wandb/offline-run-*")
    report = read_run(path)
    assert report.run.job_type == "report" and report.exit_code == 0
    assert sorted(cell["value"] for cell in report.table("cells")) == [0.5, 0.583, 0.62]
    cell = next(
        cell for cell in report.table("table5")
        if (cell["method"], cell["tokens"], cell["column"]) == ("nuwa", 128, "gqa")
    )  # fmt: skip
    assert (cell["ours"], cell["paper"], cell["state"]) == (50, 60.2, "outside")
    assert len(report.table("table7")) == 63 + 7


def test_folders_that_are_no_names(folders):
    """W&B takes no absolute path as the name of a table, and no long one."""
    other = write(Path(folders[0]).parent / "other", [result("none", {GQA: 0.7}, model="llava_next_7b")])
    (other / "run0").rename(other / "run9")
    assert main([*folders, str(other), "--wandb"]) == 0
    (path,) = Path(folders[0]).glob("wandb/offline-run-*")
    rows = read_run(path).table("runs")  # one table, whatever the models
    assert sorted((row["method"], row["model"]) for row in rows) == [
        ("none", "llava_1_5_7b"), ("none", "llava_next_7b"), ("nuwa", "llava_1_5_7b"), ("nuwa", "llava_1_5_7b"),
    ]  # fmt: skip


def test_options_of_another_version():
    recorded = {"kind": "wandb", "project": "mine", "gone": 1}
    options = logged_with(runs_of([{"config": {"logger": options}} for options in (None, {"kind": "none"}, recorded)]))
    assert options.project == "mine" and "gone" not in options


def test_no_run_no_report(folders, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        main(["--expected", "table5", "--wandb"])
    monkeypatch.setattr("wandb.init", lambda **_: 1 / 0)
    assert main([folders[0], "--wandb"]) == 1 and "not on W&B" in capsys.readouterr().err


@pytest.mark.parametrize(("missing", "left"), [("matplotlib", "charts/"), ("plotly", "accuracy_")])
def test_without_a_package_the_other_draws(tmp_path, monkeypatch, missing, left):
    monkeypatch.setitem(sys.modules, missing, None)
    assert log_report(runs_of([result("none", {GQA: 0.62}), result("nuwa", {GQA: 0.5}, average=64)]), [], tmp_path)
    (path,) = tmp_path.glob("wandb/offline-run-*")
    assert {name[: len(left)] for name in read_run(path).summary if "llava_1_5_7b" in name} == {left}


def test_what_a_report_is_about(folders):
    """Its config has the values of every choice; its charts are files that plotly reads back."""
    assert main([*folders, "--wandb"]) == 0
    (path,) = Path(folders[0]).glob("wandb/offline-run-*")
    report = read_run(path)
    assert {name: report.config[name] for name in ("methods", "budgets", "positions", "datasets", "models")} == {
        "methods": ["none", "nuwa"], "budgets": ["128 tokens", "64 tokens", "all tokens"], "positions": ["pesp"],
        "datasets": ["gqa"], "models": ["llava_1_5_7b"],
    }  # fmt: skip
    assert sorted(report.config["runs"].values()) == ["none all pesp gqa", "nuwa 128 pesp gqa", "nuwa 64 pesp gqa"]
    figure = plotly.io.from_json(report.pictures("charts/tokens_llava_1_5_7b")[0].read_text())
    lines = {trace.name: list(zip(trace.x, trace.y, strict=True)) for trace in figure.data}
    assert lines == {"Unpruned": [(576, 62)], "Nüwa, PESP": [(64, pytest.approx(58.3)), (128, 50)]}
