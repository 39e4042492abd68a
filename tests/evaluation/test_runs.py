"""Runs are read from whatever lies in their folder."""

import json
from dataclasses import fields

import pytest
from helpers.jobs import small
from helpers.made_up import result, row, write

from nuwa.evaluation.result import RESULT, read_result
from nuwa.evaluation.run import run_job
from nuwa.evaluation.runs import Run, collect, find_runs
from nuwa.evaluation.scores import headlines, scores_of


def test_a_run_has_every_key_of_its_result(tmp_path):
    folder = run_job(small(tmp_path, "dataset.samples=2"))
    content = read_result(folder)
    assert content.keys() <= {key.name for key in fields(Run)}
    run = Run.read(folder)
    assert all(getattr(run, key) == value for key, value in content.items())
    assert run.done and run.choices.method == "nuwa" and run.choices.position == "native"


@pytest.mark.parametrize("text", ["", "{torn", "[1]", "null"])
def test_what_cannot_be_read_says_so(tmp_path, text):
    (tmp_path / RESULT).write_text(text)
    (tmp_path / "predictions.jsonl").write_text(json.dumps(row("a")) + '\n{"torn')
    run = Run.read(tmp_path)
    assert (run.run_key, run.status, run.method) == (tmp_path.name, "unreadable", "?")
    assert run.reason.startswith(f"unreadable: {tmp_path / RESULT}: ")
    assert run.reason.endswith("; 1 samples computed, no result yet")
    (tmp_path / RESULT).unlink()
    run = Run.read(tmp_path)
    assert (run.status, run.reason) == ("unfinished", "1 samples computed, no result yet")


def test_keys_of_other_versions_are_left_out(tmp_path):
    content = result("nuwa", {"vqa/m": 0.5}, from_tomorrow=1, tokens_leaving=None)
    (tmp_path / RESULT).write_text(json.dumps(content))
    run = Run.read(tmp_path)
    assert (run.done, run.tokens_leaving, run.protocol) == (True, None, 1)


def test_a_run_in_two_folders_counts_once_where_it_is_finished(tmp_path):
    content = result("nuwa", {"vqa/m": 0.5}, run_key="run0")
    for place, status in (("a", "failed"), ("b", "done"), ("c", "failed")):
        write(tmp_path / place, [content | {"status": status}])
    (tmp_path / "b" / "run0").rename(tmp_path / "b" / "named by hand")
    write(tmp_path / "d", [content])
    assert [(run.run_key, run.status) for run in collect(find_runs(tmp_path))] == [("run0", "done")]


def test_the_first_metric_of_a_task_is_its_headline():
    one = Run.of(result("nuwa", {"vg/acc@0.5": 0.5, "vg/miou": 0.4}))
    other = Run.of(result("nuwa", {"vqa/m": 0.5, "vg/miou": 0.5}))
    assert headlines([one, other]) == ["vg/acc@0.5", "vqa/m"]
    assert [score.value for score in scores_of(one)] == [0.5, 0.4]
