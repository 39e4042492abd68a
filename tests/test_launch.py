"""The documented commands: one job, a sweep, a second call, a kill in the middle, bad input."""

import importlib.util
import os
import signal
import subprocess
import sys
import time

import pytest
from helpers.jobs import ROOT, SMALL, small

from nuwa.evaluation.journal import JOURNAL
from nuwa.evaluation.result import read_result
from nuwa.evaluation.run import run_job


@pytest.fixture
def launch(monkeypatch, tmp_path, capsys):
    """``python launch.py`` in this process, at toy size: exit status, printed text."""
    spec = importlib.util.spec_from_file_location("launch", ROOT / "launch.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def call(*arguments, multirun=False):
        command = ["launch.py", *(["-m"] if multirun else []), *SMALL, f"paths.outputs={tmp_path}", *arguments]
        monkeypatch.setattr(sys, "argv", command)
        try:
            status = module.main()
        except SystemExit as stop:
            status = stop.code
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    return call


def results(folder):
    return [read_result(file.parent) for file in sorted(folder.glob("main/*/result.json"))]


def test_a_sweep_and_its_second_call(launch, tmp_path):
    status, printed = launch("pruner.d_thresh=1,18", multirun=True)
    assert status == 0
    assert sorted(result["method"] for result in results(tmp_path)) == ["none", "nuwa", "nuwa"]
    assert (
        "d_thresh" in printed and "none" in printed and "retained" not in printed
    )  # nothing to retain: random weights
    before = {file: file.stat().st_mtime_ns for file in tmp_path.glob("main/*/result.json")}
    assert launch("pruner.d_thresh=1,18", multirun=True)[0] == 0
    assert before == {file: file.stat().st_mtime_ns for file in tmp_path.glob("main/*/result.json")}
    assert launch("-m", "pruner.d_thresh=1,18")[0] == 0  # choices stand on both sides of -m
    assert launch("pruner.d_thresh=18")[0] == 0  # a single run shares the sweep's folder
    assert before == {file: file.stat().st_mtime_ns for file in tmp_path.glob("main/*/result.json")}


def test_a_failing_point_does_not_stop_the_sweep(launch, tmp_path):
    status, printed = launch("pruner.d_thresh=0,18", "budget.average=16,80", "baseline=skip", multirun=True)
    assert status == 1 and "Traceback" not in printed
    states = sorted(result["status"] for result in results(tmp_path))
    assert states == ["done", "failed", "failed", "unreachable"]
    assert "pruner.d_thresh must be" in printed and "budget.average=80" in printed


def test_an_unreachable_budget_alone_is_no_failure_of_a_sweep(launch):
    assert launch("pruner=none,nuwa", "budget.average=80", multirun=True)[0] == 0


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("pruner.d_thresh=abc", "pruner.d_thresh"),
        ("pruner.d_thresh=0", "pruner.d_thresh"),
        ("pruner=magic", "pruner/magic"),
        ("pruner.d_tresh=1", "d_tresh"),
        ("model=tiny_llava", "model.layers"),  # the options of another model
        ("position.strategy=sideways", "position.strategy"),
    ],
)
def test_bad_input_is_one_line_and_leaves_no_folder(launch, tmp_path, override, named):
    status, printed = launch(override)
    assert status == 1 and named in printed and "Traceback" not in printed
    assert not list(tmp_path.glob("main/*"))


def test_outputs_that_cannot_be_written(launch, tmp_path):
    (tmp_path / "file").write_text("")
    for multirun in (False, True):
        status, printed = launch(f"paths.outputs={tmp_path}/file/below", multirun=multirun)
        assert status == 1 and "error: paths.outputs=" in printed and "Traceback" not in printed


def test_killed_in_the_middle_it_resumes_exactly(tmp_path):
    overrides = ("dataset.samples=40", "baseline=skip", "generation.max_new_tokens=10")
    whole = run_job(small(tmp_path / "whole", *overrides))
    command = [sys.executable, str(ROOT / "launch.py"), *SMALL, *overrides, f"paths.outputs={tmp_path / 'cut'}"]
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL)
    journal = tmp_path / "cut" / "main" / whole.name / JOURNAL  # the key is the same in another process
    while process.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") >= 7):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (journal.parent / "result.json").exists(), "finished before it could be killed"
    assert journal.read_bytes().count(b"\n") < 40
    with journal.open("ab") as file:
        file.write(b'{"run_key": "torn')
    assert run_job(small(tmp_path / "cut", *overrides)) == journal.parent
    assert journal.read_bytes() == (whole / JOURNAL).read_bytes()
    one, two = read_result(whole), read_result(journal.parent)
    assert one["metrics"] == two["metrics"] and one["tokens_per_layer"] == two["tokens_per_layer"]
