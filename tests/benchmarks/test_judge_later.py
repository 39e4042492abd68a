"""nuwa judge: saved MM-Vet answers get their marks from a server, once each, whatever happens in between."""

import json
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
from helpers.jobs import ROOT, SMALL, compose
from helpers.published import keep_to, mmvet, write_set

from nuwa.benchmarks import judge as judge_module
from nuwa.evaluation.journal import JOURNAL, read_rows
from nuwa.evaluation.result import read_result, write_result
from nuwa.evaluation.run import run_job
from nuwa.judge import MARKS, main
from nuwa.report.compare import main as compare

TOY = [override for override in SMALL if not override.startswith("dataset.")]
ROWS = 6


def job(data, outputs, *overrides):
    """A job on MM-Vet without a judge."""
    options = ("dataset=mmvet", f"dataset.path={data}", f"paths.outputs={outputs}", "generation.max_new_tokens=2")
    return run_job(compose(*TOY, *options, *overrides))


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    """The data, and a pruned run with its unpruned one, answered without a judge."""
    data, outputs = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("outputs")
    with pytest.MonkeyPatch.context() as patch:
        keep_to(outputs, patch)
        write_set("mmvet", data, ROWS)
        return data, job(data, outputs)


@pytest.fixture
def runs(answered, tmp_path, own_cache, monkeypatch):
    """A copy of the two runs."""
    monkeypatch.setattr(judge_module.time, "sleep", lambda seconds: None)
    folder = tmp_path / "main" / answered[1].name
    shutil.copytree(answered[1].parent, folder.parent)
    return folder, folder.parent / read_result(folder)["baseline"]


def command(server, *folders):
    return [*map(str, folders), "--url", server[0], "--model", "marker"]


@pytest.mark.parametrize(
    "line",
    ["5", "[]", "{broken", "[" * 5000, '{"judge": "x"}', '{"judge": "x", "id": "a", "prediction": "", "scores": 1}'],
)
def test_a_damaged_mark_is_named_and_nothing_is_asked(line, runs, server, capsys):
    pruned, _ = runs
    (pruned / MARKS).write_text(f"{line}\n")
    journal = (pruned / JOURNAL).read_bytes()
    assert main(command(server, pruned)) == 1
    assert f"error: unreadable: {pruned / MARKS}, line 1: no mark: " in capsys.readouterr().err
    assert server[2] == [] and (pruned / JOURNAL).read_bytes() == journal


def test_marks_become_scores_and_retention(runs, server, capsys):
    url, replies, asked = server
    pruned, unpruned = runs
    before = read_result(pruned)
    assert before["metrics"] == {} and "judge" not in before
    given = {pruned: ["0.5", "0.1 or so", "1", "0", "0.5", "0.3"], unpruned: ["0.6"] * ROWS}
    for folder in sorted(given):  # as they are found
        replies += given[folder]
    assert main(command(server, pruned.parent)) == 0
    assert len(asked) == 2 * ROWS and not replies and "mmvet/score 0.400" in capsys.readouterr().out
    answers = {row["prediction"] for row in read_rows(pruned / JOURNAL) + read_rows(unpruned / JOURNAL)}
    assert {
        body["messages"][0]["content"].split("Answer: ")[-1].removesuffix("\nMark:") for _, _, body in asked
    } == answers
    marks = [0.5, 0.1, 1.0, 0.0, 0.5, 0.3]
    assert [row["scores"] for row in read_rows(pruned / JOURNAL)] == [
        {"mmvet/score": mark, "mmvet/parsed": 1.0} for mark in marks
    ]
    result = read_result(pruned)
    even, odd = (sum(marks[i::2]) / 3 for i in range(2))  # capabilities alternate: rec, then ocr and math
    assert result["metrics"] == pytest.approx(
        {
            "mmvet/score": 0.4,
            "mmvet/score/rec": even,
            "mmvet/score/ocr": odd,
            "mmvet/score/math": odd,
            "mmvet/parsed": 1.0,
        }
    )
    assert result["retention"]["mmvet/score"]["value"] == pytest.approx(0.4 / 0.6)
    assert set(result["standard_errors"]) == set(result["metrics"])
    assert (result["judge"]["url"], result["judge"]["model"]) == (url, "marker")
    changed = {"metrics", "standard_errors", "intervals", "retention", "judge"}
    assert {key: value for key, value in result.items() if key not in changed} == {
        key: value for key, value in before.items() if key not in changed
    }
    assert main(command(server, pruned, unpruned)) == 0 and len(asked) == 2 * ROWS  # nobody is asked twice
    assert compare([str(pruned), str(unpruned)]) == 0 and "mmvet/score" in capsys.readouterr().out


def test_a_judge_that_gives_up_leaves_no_score(runs, server, capsys):
    _, replies, asked = server
    folder = runs[0]
    replies += ["0.5", 429, 500, "0.25", b"<html>", "0.75", 500, 500, 500]
    assert main(command(server, folder)) == 1
    assert "HTTP Error 500" in (printed := capsys.readouterr().err) and "goes on from there" in printed
    assert read_result(folder)["metrics"] == {} and not any(row["scores"] for row in read_rows(folder / JOURNAL))
    assert len((folder / MARKS).read_text().splitlines()) == 3
    with (folder / MARKS).open("a") as file:
        file.write('{"judge": "mar')  # as a kill leaves it
    asked.clear()
    replies += ["1.0"] * 3
    assert main(command(server, folder)) == 0 and len(asked) == 3
    assert [row["scores"]["mmvet/score"] for row in read_rows(folder / JOURNAL)] == [0.5, 0.25, 0.75, 1, 1, 1]


def test_a_kill_loses_nothing(runs, server):
    _, replies, asked = server
    folder, silence = runs[0], threading.Event()
    replies += ["0.5", "0.5", silence, *["1"] * 4]
    process = subprocess.Popen(
        [sys.executable, "-m", "nuwa.judge", *command(server, folder)], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    while len(asked) < 3 and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    silence.set()
    assert len((folder / MARKS).read_text().splitlines()) == 2 and read_result(folder)["metrics"] == {}
    assert main(command(server, folder)) == 0
    prompts = [body["messages"][0]["content"] for _, _, body in asked]
    assert len(prompts) == ROWS + 1 and prompts[2] == prompts[3]  # only the one in flight was asked again
    assert [row["scores"]["mmvet/score"] for row in read_rows(folder / JOURNAL)] == [0.5, 0.5, 1, 1, 1, 1]


def test_marks_belong_to_an_answer_and_a_judge(runs, server, tmp_path):
    _, replies, asked = server
    folder = runs[0]
    replies += ["0.5"] * ROWS
    assert main(command(server, folder)) == 0
    lines = (folder / JOURNAL).read_text(encoding="utf-8").splitlines()
    changed = json.loads(lines[2]) | {"prediction": "something else"}
    (folder / JOURNAL).write_text("\n".join([*lines[:2], json.dumps(changed), *lines[3:]]) + "\n", encoding="utf-8")
    replies.append("1.0")
    assert main(command(server, folder)) == 0 and len(asked) == ROWS + 1
    words = tmp_path / "words.txt"
    words.write_text("{question} | {answer} | {prediction}", encoding="utf-8")
    replies += ["0.2"] * ROWS
    assert main([*command(server, folder), "--prompt", str(words)]) == 0
    assert asked[-1][2]["messages"][0]["content"].startswith(f"{mmvet(1)[0]['question']} | 1<AND>2 | ")
    assert read_result(folder)["metrics"]["mmvet/score"] == pytest.approx(0.2)
    assert read_result(folder)["judge"]["prompt"] == words.read_text()


def test_no_retention_from_the_marks_of_two_judges(runs, server, tmp_path):
    pruned, unpruned = runs
    server[1].extend(["0.5"] * 3 * ROWS)
    assert main(command(server, unpruned, pruned)) == 0 and "mmvet/score" in read_result(pruned)["retention"]
    words = tmp_path / "words.txt"
    words.write_text("{question} | {answer} | {prediction}", encoding="utf-8")
    assert main([*command(server, pruned), "--prompt", str(words)]) == 0
    assert "retention" not in read_result(pruned)


def test_a_line_that_another_process_is_writing_stays(runs, server):
    pruned, unpruned = runs
    server[1].extend(["0.5"] * 2 * ROWS)
    assert main(command(server, pruned, unpruned)) == 0
    whole = (unpruned / MARKS).read_bytes()
    torn = whole + b'{"judge": "mar'
    (unpruned / MARKS).write_bytes(torn)
    assert main(command(server, pruned)) == 0 and "mmvet/score" in read_result(pruned)["retention"]
    assert (unpruned / MARKS).read_bytes() == torn
    assert main(command(server, unpruned)) == 0 and (unpruned / MARKS).read_bytes() == whole


def test_what_cannot_be_judged(runs, server, tmp_path, capsys):
    folder = runs[0]
    (tmp_path / "empty").mkdir()
    assert main(command(server, tmp_path / "empty")) == 1
    assert "no finished MM-Vet run without a judge" in capsys.readouterr().err
    assert main([str(folder), "--url", "ftp://x", "--model", "marker"]) == 1
    assert "must start with http" in capsys.readouterr().err
    result = read_result(folder)
    result["config"]["dataset"]["judge_url"] = "http://x"
    write_result(folder, result)
    assert main(command(server, folder)) == 1 and "without a judge" in capsys.readouterr().err


def test_a_job_that_is_asked_for_more_keeps_its_marks(answered, runs, server, tmp_path):
    """And is compared with an unpruned run that the same judge has marked only."""
    _, replies, _ = server
    pruned, unpruned = runs
    replies += ["0.5"] * 2 * ROWS
    assert main(command(server, pruned.parent)) == 0
    probe = ("probe=speed", "probe.warmup=0", "probe.repeats=1", "probe.new_tokens=2")
    marked = read_result(pruned)
    assert job(answered[0], tmp_path, *probe) == pruned
    result = read_result(pruned)
    assert "speed" in result and all(result[key] == marked[key] for key in ("metrics", "judge", "retention"))

    words = tmp_path / "words.txt"
    words.write_text("{question} | {answer} | {prediction}", encoding="utf-8")
    replies += ["1"] * ROWS
    assert main([*command(server, unpruned), "--prompt", str(words)]) == 0
    assert job(answered[0], tmp_path, *probe, "probe.repeats=2") == pruned
    assert read_result(pruned)["metrics"] == marked["metrics"] and read_result(pruned)["retention"] == {}
