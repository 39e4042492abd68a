"""Several processes share a run: each sample once, the same rows as one process, and nothing lost to a kill."""

import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from evaluation.test_data import Mixed
from helpers.jobs import ROOT, SMALL, compose, small
from helpers.made_up import row
from omegaconf import OmegaConf
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from nuwa.config import ConfigError
from nuwa.evaluation.check import check
from nuwa.evaluation.data import EvaluationData
from nuwa.evaluation.journal import BATCH_END, JOURNAL, PARTS, Journal, merged, part_path, read_rows, whole_batches
from nuwa.evaluation.module import TIMINGS
from nuwa.evaluation.processes import ProcessError, Processes, check_processes, check_sweep, current, start
from nuwa.evaluation.result import read_result
from nuwa.evaluation.run import run_job

JOB = ("dataset.samples=41", "baseline=skip", "generation.max_new_tokens=10")
TWO = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.batch_size=2")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The folder of the run of one process."""
    return run_job(small(tmp_path_factory.mktemp("alone"), *JOB))


def same_result(folder, alone):
    """Whether rows, byte for byte, and everything that is computed from them are those of one process."""
    one, two = read_result(alone), read_result(folder)
    assert (folder / JOURNAL).read_bytes() == (alone / JOURNAL).read_bytes()
    assert not list(folder.glob(PARTS))
    for key in ("status", "n", "metrics", "standard_errors", "tokens_per_layer", "llm_tflops", "run_key"):
        assert one[key] == two[key], key


def test_two_processes_answer_each_sample_once(alone, tmp_path):
    options = [option for option in SMALL if not option.startswith("trainer")]
    command = [sys.executable, str(ROOT / "launch.py"), *options, *JOB, *TWO, f"paths.outputs={tmp_path}"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("exact_match") == 1, "only the first process speaks"
    folder = tmp_path / "main" / alone.name
    same_result(folder, alone)
    assert read_result(folder)["timings"]["processes"] == 2
    assert [path.read_text().count("\n") for path in sorted(folder.glob(TIMINGS))] == [11, 10], "in turn"


def run_as(rank, port, cfg):
    """Run a job as one of two processes, as torchrun starts them."""
    started = {"TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": rank}
    started |= {"LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    os.environ.update({name: str(value) for name, value in started.items()})
    torch.set_num_threads(1)  # OpenMP's other threads do not survive a fork
    run_job(cfg)


def start_two(cfg):
    """Two processes that have nothing to import, because they are forked."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    workers = [fork.Process(target=run_as, args=(rank, port, cfg), daemon=True) for rank in range(2)]
    for process in workers:
        process.start()
    return workers


def exits(workers):
    for process in workers:
        process.join(timeout=120)
    return [process.exitcode for process in workers]


def test_a_killed_worker_loses_no_finished_sample(alone, tmp_path):
    cfg, folder = small(tmp_path, *JOB, *TWO), tmp_path / "main" / alone.name
    workers, part = start_two(cfg), part_path(folder, 1)
    while workers[1].is_alive() and not (part.exists() and part.read_bytes().count(b"\n") >= 4):
        time.sleep(0.01)
    workers[1].kill()
    lead, killed = exits(workers)
    assert killed == -signal.SIGKILL and lead != 0
    assert read_result(folder)["status"] == "failed" and "another process was lost" in read_result(folder)["reason"]
    finished = {batch[0]["id"] for path in folder.glob(PARTS) for batch in whole_batches(read_rows(path))}
    assert 11 + 2 <= len(finished) < 21, "the lead was not kept from its share, the other was killed in the middle"
    copied = tmp_path / "copied" / "main" / alone.name
    shutil.copytree(folder, copied)

    assert exits(start_two(cfg)) == [0, 0]
    run_job(small(tmp_path / "copied", *JOB))  # the same with one process
    for restarted in (folder, copied):
        same_result(restarted, alone)
        lines = [line for path in restarted.glob(TIMINGS) for line in path.read_text().splitlines()]
        computed = Counter(json.loads(line)["first"] for line in lines)
        assert all(computed[first] <= 1 for first in finished)


def numbered(done=(), rank=0, size=1):
    rows = {name: {"task": "", "status": "failed"} if name == "s4" else {"task": task(name)} for name in done}
    data = EvaluationData(Mixed(), len(Mixed.tasks), rows, 2, 0, True, rank, size)
    return [(batch.number, [item.id for item in batch]) for batch in data.test_dataloader()]


def task(name):
    return Mixed.tasks[int(name[1:])]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("left", [(0, 1, 2, 3, 4, 5), (1, 3, 4), (5,), ()])
def test_batches_are_shared_out_once_and_keep_their_numbers(size, left):
    whole = numbered()
    done = [name for number, names in whole if number not in left for name in names]
    shares = [numbered(done, rank, size) for rank in range(size)]
    assert sorted(batch for share in shares for batch in share) == [whole[number] for number in left]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def rows_of(number, *names):
    return [row(name, batch=number, **{BATCH_END: name == names[-1]}) for name in names]


def ids(journal):
    return [one["id"] for one in journal.rows]


@pytest.fixture
def parts(tmp_path):
    """What three processes have left: the second was killed within a batch, the third after a merge had begun."""
    Journal(tmp_path / JOURNAL, "key").append(rows_of(1, "c", "d"))
    for rank, rows in enumerate(
        [
            rows_of(4, "g"),
            [*rows_of(0, "a", "b"), *rows_of(3, "f", "torn")[:1]],
            [*rows_of(1, "c", "d"), *rows_of(2, "e")],
        ]
    ):
        Journal(part_path(tmp_path, rank), "key").append(rows)
    return tmp_path


def test_parts_are_merged_in_order_whole_and_once(parts):
    journal = merged(parts, "key")
    assert ids(journal) == ["a", "b", "c", "d", "e", "g"] and not list(parts.glob(PARTS))
    journal.append(rows_of(3, "f", "torn"))
    assert ids(merged(parts, "key")) == ids(Journal(parts / JOURNAL, "key")) == [*"abcdef", "torn", "g"]
    assert json.loads((parts / JOURNAL).read_text().splitlines()[-1])["run_key"] == "key"


def test_a_merge_that_is_killed_loses_nothing(parts, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            merged(parts, "key")
    assert list(parts.glob(PARTS)) and ids(merged(parts, "key")) == [*"abcdeg"]


def test_what_fails_in_another_process_fails_here(monkeypatch):
    monkeypatch.setattr(Processes, "_gather", lambda self, value: [value, "ValueError: no room"])
    with pytest.raises(ProcessError, match="process 1 of 2: ValueError: no room"), Processes(0, 2, 0, 2).together():
        pass
    with pytest.raises(KeyError, match="mine"), Processes(0, 2, 0, 2).together():
        raise KeyError("mine")


def test_processes_that_were_not_started_are_asked_for(tmp_path):
    result = read_result(run_job(small(tmp_path, "trainer.devices=2", "baseline=skip")))
    assert result["status"] == "failed" and "torchrun --nnodes=1 --nproc-per-node=2" in result["reason"]


@pytest.mark.parametrize(
    ("overrides", "local", "fits"),
    [
        (("trainer=ddp",), 4, True),
        (("trainer=ddp", "trainer.devices=4"), 4, True),
        (("trainer=ddp", "trainer.devices=2"), 4, False),
        (("trainer=ddp", "trainer.num_nodes=2"), 4, False),
        (("trainer=ddp", "trainer.num_nodes=2"), 2, True),
    ],
)
def test_processes_must_be_those_that_are_asked_for(tmp_path, overrides, local, fits):
    cfg, processes = small(tmp_path, *overrides), Processes(1, 4, 1, local)
    if fits:
        check_processes(cfg, processes)
    else:
        with pytest.raises(ConfigError, match=r"trainer\.devices="):
            check_processes(cfg, processes)


def test_what_several_processes_cannot_do_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"trainer\.num_nodes=2: start torchrun on every node"):
        start(small(tmp_path, "trainer=ddp", "trainer.num_nodes=2"))
    with pytest.raises(ConfigError, match=r"model\.device_map=auto: trainer=ddp"):
        check(compose("trainer=ddp", "+model.device_map=auto"))
    side_by_side = {"launcher": {"_target_": "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher"}}
    cfg = OmegaConf.create({"hydra": side_by_side, "trainer": {"devices": 2, "num_nodes": 1}})
    with pytest.raises(ConfigError, match="hydra/launcher=JoblibLauncher: trainer=ddp"):
        check_sweep(cfg)


@pytest.mark.parametrize(
    ("stopped", "status", "said"),
    [
        (None, 0, ""),
        (ChildFailedError("launch.py", {1: ProcessFailure(1, 7, 1, "none")}), 1, ""),
        (
            ChildFailedError("launch.py", {1: ProcessFailure(1, 7, -signal.SIGKILL, "none")}),
            1,
            "error: process 1 was ended by SIGKILL; the same command goes on from there\n",
        ),
        (SignalException("stopped", signal.SIGTERM), 128 + signal.SIGTERM, ""),
    ],
)
def test_the_exit_status_says_how_the_processes_ended(stopped, status, said, tmp_path, monkeypatch, capsys):
    def run(arguments):
        assert arguments.nproc_per_node == "2"
        if stopped is not None:
            raise stopped

    monkeypatch.setattr("torch.distributed.run.run", run)
    monkeypatch.setattr("logging.disable", lambda: None)
    monkeypatch.setattr("sys.argv", ["launch.py"])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with pytest.raises(SystemExit) as left:
        start(small(tmp_path, *TWO))
    assert left.value.code == status and capsys.readouterr().err == said


def test_every_process_has_a_gpu_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    started = {"TORCHELASTIC_RUN_ID": "x", "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    for name, value in started.items():
        monkeypatch.setenv(name, value)
    assert current(small(tmp_path, "trainer=ddp")) == Processes(3, 4, 1, 2)
    assert current(small(tmp_path)) == Processes()
    options = [option for option in SMALL if option != "trainer=cpu"]
    assert check(compose(*options, "trainer=ddp")).model["device"] == "cuda:1"
    assert check(compose(*options, "trainer=gpu")).model["device"] == "cuda"
    with pytest.raises(ConfigError, match=r"trainer\.devices=3: this machine has 2 GPUs"):
        check(compose(*options, "trainer=ddp", "trainer.devices=3"))
