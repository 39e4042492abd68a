"""When a job is skipped, what its processes do in which order, and what is recorded of one that goes wrong."""

import json
import logging
import subprocess

import pytest
import torch
from helpers.jobs import small
from helpers.made_up import row
from omegaconf import OmegaConf
from transformers import AutoConfig

from nuwa.config import plain, run_key
from nuwa.evaluation import compute, first, result, run
from nuwa.evaluation.journal import Journal, JournalError
from nuwa.evaluation.processes import Processes
from nuwa.evaluation.result import RESULT, environment, read_result, write_result
from nuwa.pruners.base import MisfitError
from nuwa.pruning.budget import BudgetError

PROBE = {"speed": True, "repeats": 1}
DONE = {"status": "done", "metrics": {}, "n": 1}


def finished(tmp_path, found, **asked):
    asked = {"baseline": run.Baseline.skip, "probe": {"speed": False}, "resume": True} | asked
    (tmp_path / RESULT).write_text(json.dumps(DONE | {"config": {}, "reason": "none"} | found))
    return first.is_finished(OmegaConf.create(asked), tmp_path)


def test_what_counts_as_finished(tmp_path):
    assert finished(tmp_path, {}) and not finished(tmp_path, {"status": "failed"})
    assert not finished(tmp_path, {}, resume=False)
    auto = {"baseline": run.Baseline.auto}
    assert not finished(tmp_path, {}, **auto) and finished(tmp_path, {"baseline": "key"}, **auto)
    assert not finished(tmp_path, {"status": "failed", "baseline": "key"}, **auto)
    asked, measured = {"probe": PROBE}, {"config": {"probe": PROBE}}
    assert not finished(tmp_path, measured, **asked) and finished(tmp_path, measured | {"speed": []}, **asked)
    assert not finished(tmp_path, {"config": {"probe": PROBE | {"repeats": 2}}, "speed": []}, **asked)
    assert not finished(tmp_path, {"n_failed": 1, "n_passing": 1}) and finished(tmp_path, {"n_failed": 1})
    Journal(tmp_path / "predictions.jsonl", "key").append([row("a"), row("b")])  # more or fewer than were counted
    assert finished(tmp_path, {"n": 2}) and not finished(tmp_path, {"n": 3}) and not finished(tmp_path, {})


@pytest.fixture
def two(monkeypatch):
    """Makes this process one of two, which say the same; what they said."""
    said = []

    def gather(self, value):
        said.append(value)
        return [value, None]

    def become(rank):
        monkeypatch.setattr(run, "meet", lambda cfg: Processes(rank, 2, rank, 2))
        monkeypatch.setattr(run, "check_processes", lambda cfg, processes: None)
        monkeypatch.setattr(Processes, "_gather", gather)
        return said

    return become


@pytest.mark.parametrize("rank", [0, 1])
def test_the_lead_alone_locks_and_writes(tmp_path, monkeypatch, two, rank):
    said, locked = two(rank), []
    monkeypatch.setattr(compute, "compute", lambda *given: locked.append(list(given[1].glob(".lock"))) or DONE)
    folder = run.run_job(small(tmp_path, "baseline=skip"))
    assert ((folder / RESULT).exists(), bool(locked[0])) == (rank == 0, rank == 0)
    assert said == [None, False, None, None]  # locked; finished? checked; written


def test_a_run_that_is_finished_is_waited_for_by_nobody(tmp_path, monkeypatch, two, caplog):
    cfg = small(tmp_path, "baseline=skip")
    folder = tmp_path / "main" / run_key(cfg)
    folder.mkdir(parents=True)
    write_result(folder, DONE | {"config": {}, "n_failed": 2})
    with caplog.at_level(logging.INFO, "nuwa"):
        assert run.run_job(cfg) == folder and two(0) == []
    failed = "2 of 3 samples failed (the same choices; resume=false computes again)"
    assert caplog.messages == [f"{folder}: finished before, skipped; {failed}"]
    monkeypatch.setattr(compute, "compute", lambda *given: DONE | {"n": 7})
    assert read_result(run.run_job(small(tmp_path, "baseline=skip", "resume=false")))["n"] == 7


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (BudgetError("budget.average=9: no"), "unreachable", "budget.average=9: no"),
        (MisfitError("pruner: no"), "refused", "pruner: no"),
        (JournalError("torn"), "failed", "torn"),
        (OSError("full"), "failed", "full"),
        (KeyError("x"), "failed", "KeyError: 'x'"),
    ],
)
def test_how_a_job_ends(tmp_path, monkeypatch, caplog, error, status, reason):
    def fail(*given):
        raise error

    monkeypatch.setattr(compute, "compute", fail)
    cfg = small(tmp_path, "baseline=skip")
    with caplog.at_level(logging.WARNING):
        folder = run.run_job(cfg)
    found = read_result(folder)
    assert (found["status"], found["reason"], found["run_key"]) == (status, reason, folder.name)
    assert ("traceback" in found) == (status == "failed") and found["config"] == json.loads(json.dumps(plain(cfg)))
    (record,) = caplog.records
    assert record.getMessage() == f"{folder}: {status}: {reason}"
    assert record.levelno == (logging.ERROR if status == "failed" else logging.WARNING)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    caplog.clear()
    run.run_job(cfg)
    assert [record.levelno for record in caplog.records][1:] == ([logging.ERROR] if status == "failed" else [])


def test_a_result_that_cannot_be_written_costs_no_answer(tmp_path, monkeypatch, caplog):
    def full(folder, outcome):
        raise OSError("No space left on device")

    monkeypatch.setattr(compute, "compute", lambda *given: DONE)
    monkeypatch.setattr(run, "write_result", full)
    folder = run.run_job(small(tmp_path, "baseline=skip"))
    (record,) = caplog.records
    assert "result.json cannot be written (No space left on device)" in record.getMessage()
    assert not (folder / RESULT).exists()


@pytest.mark.parametrize(("resume", "kept"), [("true", {"url": "u"}), ("false", None)])
def test_the_judge_of_the_marks_in_the_journal_stays(tmp_path, monkeypatch, resume, kept):
    monkeypatch.setattr(compute, "compute", lambda *given: DONE)
    cfg = small(tmp_path, "baseline=skip", f"resume={resume}")
    folder = tmp_path / "main" / run_key(cfg)
    folder.mkdir(parents=True)
    write_result(folder, {"status": "failed", "reason": "torn", "config": {}, "judge": {"url": "u"}})
    assert read_result(run.run_job(cfg)).get("judge") == kept


def test_the_unpruned_run_is_asked_for_once(tmp_path, monkeypatch):
    """Nothing is compared with one that failed, and none is computed where none is wanted."""
    asked = []

    def found(cfg, folder, parts, baseline, processes):
        asked.append((folder.name, baseline and baseline.name))
        Journal(folder / "predictions.jsonl", folder.name).append([row("a")])
        return DONE

    monkeypatch.setattr(compute, "compute", found)
    skipped = run.run_job(small(tmp_path / "a", "baseline=skip")).name
    assert asked == [(skipped, None)]
    run.run_job(small(tmp_path / "b"))
    (unpruned, itself), (pruned, beside) = asked[1:]
    assert (itself, pruned, beside) == (unpruned, skipped, unpruned) and unpruned != skipped
    run.run_job(small(tmp_path / "b", "pruner.d_thresh=18"))
    assert len(asked) == 4 and asked[3][1] == unpruned
    run.run_job(small(tmp_path / "b", "pruner.d_thresh=19", "baseline=skip"))
    assert asked[4][1] == unpruned  # it is there
    (tmp_path / "b" / "main" / unpruned / "predictions.jsonl").unlink()  # what is compared with
    run.run_job(small(tmp_path / "b", "pruner.d_thresh=20"))
    assert [name for name, _ in asked[5:]] == [unpruned, asked[6][0]] and asked.pop(5) and asked.pop(5)[1] == unpruned
    monkeypatch.setattr(compute, "compute", lambda cfg, *given: found(cfg, *given) if cfg.budget.average else 1 / 0)
    run.run_job(small(tmp_path / "c"))
    assert asked[5] == (skipped, None)


def test_only_a_run_of_the_same_choices_under_another_protocol_is_named(tmp_path, caplog):
    cfg = small(tmp_path)
    folder = tmp_path / "main" / run_key(cfg)
    for name, seed, protocol in (("same", 0, 0), ("now", 0, 1), ("other", 1, 0)):
        (tmp_path / "main" / name).mkdir(parents=True)
        write_result(tmp_path / "main" / name, DONE | {"config": plain(cfg) | {"seed": seed}, "protocol": protocol})
    with caplog.at_level(logging.INFO, "nuwa"):
        run._name_outdated(folder)
    assert [record.getMessage().partition("because ")[2] for record in caplog.records] == [
        f"{tmp_path / 'main' / 'same'} is of protocol 0"
    ]


def test_a_result_is_put_in_place_in_one_step(tmp_path, monkeypatch):
    write_result(tmp_path, {"status": "dön", "place": tmp_path})
    assert "dön" in (tmp_path / RESULT).read_text("utf-8") and [*tmp_path.iterdir()] == [tmp_path / RESULT]
    assert (tmp_path / RESULT).read_text("utf-8").splitlines()[1] == ' "status": "dön",'
    synced = []
    monkeypatch.setattr("os.fsync", lambda descriptor: synced.append((tmp_path / RESULT).exists()))
    write_result(tmp_path, {})
    monkeypatch.setattr("os.fsync", lambda descriptor: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_result(tmp_path, {"status": "other"})
    assert synced == [True] and [*tmp_path.iterdir()] == [tmp_path / RESULT] and read_result(tmp_path) == {}


def test_the_commit_of_the_code(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    file = tmp_path / "package" / "room" / "result.py"
    file.parent.mkdir(parents=True)
    file.write_text("")
    monkeypatch.setattr(result, "__file__", str(file))

    def git(*arguments):
        who = ("-c", "user.name=x", "-c", "user.email=x")
        done = subprocess.run(
            ["git", "-C", str(tmp_path), *who, *arguments], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    commit = result._commit.__wrapped__  # found once in a process
    assert commit() is None
    git("init")
    (tmp_path / "notes").write_text("")
    git("add", "notes")
    git("commit", "-m", "x")
    assert commit() is None  # an installed copy inside another repository
    git("add", ".")
    git("commit", "-m", "x")
    (tmp_path / "notes").write_text("outside the package")
    assert commit() == git("rev-parse", "HEAD")
    file.write_text("edited")
    assert commit() == git("rev-parse", "HEAD") + "-dirty"
    monkeypatch.setattr("subprocess.run", lambda *given, **named: (_ for _ in ()).throw(FileNotFoundError("git")))
    assert commit() is None


def test_the_environment_names_the_device(monkeypatch):
    class Model(torch.nn.Linear):
        dtype = torch.bfloat16
        config = AutoConfig.for_model("llama")

    model = Model(1, 1)
    monkeypatch.setattr("platform.processor", lambda: "")
    monkeypatch.setattr("platform.machine", lambda: "machine")
    found = environment(model)
    assert found["device"] == "cpu: machine" and found["dtype"] == "bfloat16"
    monkeypatch.setattr("platform.processor", lambda: "processor")
    assert environment(model)["device"] == "cpu: processor"
    assert found["packages"]["torch"] and found["git_commit"] and found["python"][0] == "3"


def test_rows_of_a_batch_end_where_they_say(tmp_path):
    """Counted in bytes, also after several rows at once; what a killed replacement has left is not taken over."""
    journal = Journal(tmp_path / "predictions.jsonl", "key")
    journal.append([row(name) for name in "aüc"])
    lines = journal.path.read_bytes().splitlines(keepends=True)
    for count in (3, 2, 1, 0):
        journal.keep(count)
        assert journal.path.read_bytes() == b"".join(lines[:count]) and len(journal) == count
    (tmp_path / ".predictions.jsonl.new").write_text(json.dumps(row("left", run_key="key")) + "\n")
    journal.replace([row("d")])
    assert [one["id"] for one in journal.rows] == ["d"] and len(Journal(journal.path, "key")) == 1
    journal.append([row("e")])
    journal.keep(1)
    assert [one["id"] for one in journal.rows] == ["d"]
