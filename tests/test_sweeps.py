"""Sweeps that last: killed and started again, or spread over processes, they find what an undisturbed one finds."""

import json
import os
import platform
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from helpers.jobs import ROOT, SMALL

from nuwa.evaluation.journal import JOURNAL
from nuwa.evaluation.result import RESULT
from nuwa.evaluation.run import LOCK
from nuwa.launch import name_lost_jobs

ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
KILLED = ("pruner=nuwa,visionzip,random", "position=perc,pesp", "budget=avg64,avg128", "dataset.samples=20")
QUIET = ("logger=none", "callbacks=none", "trainer=cpu", "trainer.batch_size=5")
TOY = (*SMALL, "pruner.d_thresh=1,18", "dataset.samples=10")


def sweep(outputs, *overrides):
    """A sweep in a process of its own."""
    command = [sys.executable, str(ROOT / "launch.py"), "-m", *overrides, f"paths.outputs={outputs}"]
    return subprocess.Popen(command, env=ENVIRONMENT, cwd=outputs.parent, stdout=subprocess.DEVNULL)


def found(outputs):
    """By run: the journal's bytes, and the result but for times and places."""
    runs = {}
    for file in outputs.glob(f"main/*/{RESULT}"):
        result = json.loads(file.read_text())
        assert result["status"] == "done", result["reason"]
        for key in ("timings", "environment"):
            del result[key]
        for key in ("paths", "callbacks"):
            del result["config"][key]
        runs[file.parent.name] = (file.with_name(JOURNAL).read_bytes(), result)
    return runs


def rows(outputs):
    return sum(file.read_bytes().count(b"\n") for file in outputs.glob(f"main/*/{JOURNAL}"))


def kill_at(process, outputs, count, delay):
    """End a process ``delay`` seconds after so many rows are on disk."""
    while rows(outputs) < count and process.poll() is None:
        time.sleep(0.01)
    time.sleep(delay)
    assert process.poll() is None, "finished before it could be killed"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_sweep_of_12_jobs_killed_three_times_ends_as_one_that_was_not(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert sweep(whole, *KILLED, *QUIET).wait() == 0
    total = rows(whole)
    seed = random.SystemRandom().randrange(10**6)
    draw = random.Random(seed)
    moments = [(count, draw.uniform(0, 0.5)) for count in sorted(draw.sample(range(1, total - 20), 3))]
    print(f"seed {seed}: killed after {moments} (rows of {total}, seconds)")
    for moment in moments:
        kill_at(sweep(cut, *KILLED, *QUIET), cut, *moment)
        assert len(found(cut)) < 13
    assert sweep(cut, *KILLED, *QUIET).wait() == 0
    assert len(found(whole)) == 13 and found(cut) == found(whole)
    scores = {result["metrics"]["vqa/exact_match"] for _, result in found(whole).values()}
    assert len(scores) > 3  # there was something to lose


@pytest.fixture(scope="module")
def one_by_one(tmp_path_factory):
    """What the basic launcher finds."""
    outputs = tmp_path_factory.mktemp("basic") / "outputs"
    assert sweep(outputs, *TOY).wait() == 0
    return found(outputs)


LAUNCHERS = [
    ("joblib", ["hydra.launcher.n_jobs=2"]),
    ("submitit_local", ["hydra.launcher.timeout_min=5"]),
    ("ray", ["+hydra.launcher.ray.init.num_cpus=2"]),
]


@pytest.mark.slow
@pytest.mark.parametrize(("launcher", "options"), LAUNCHERS)
def test_jobs_side_by_side_find_the_same(launcher, options, one_by_one, tmp_path):
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.split('_')[0]}_launcher")
    assert sweep(tmp_path / "outputs", *TOY, f"hydra/launcher={launcher}", *options).wait() == 0
    assert len(one_by_one) == 3 and found(tmp_path / "outputs") == one_by_one


def worker_of(outputs):
    """The process that holds the lock of a run, once some rows are on disk."""
    while rows(outputs) < 4:
        time.sleep(0.02)
    while True:
        for files in Path("/proc").glob("[0-9]*/fd"):
            with suppress(OSError):
                if any(file.readlink().match(f"{outputs}/main/*/{LOCK}") for file in files.iterdir()):
                    return int(files.parent.name)


@pytest.mark.slow
@pytest.mark.parametrize(("launcher", "options"), LAUNCHERS)
def test_the_job_of_a_killed_worker_is_done_elsewhere_or_named(launcher, options, tmp_path):
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.split('_')[0]}_launcher")
    outputs, long = tmp_path / "outputs", (*TOY, "dataset.samples=40")
    command = [sys.executable, str(ROOT / "launch.py"), "-m", *long, f"hydra/launcher={launcher}", *options]
    command.append(f"paths.outputs={outputs}")
    with (tmp_path / "log").open("w+") as log:
        process = subprocess.Popen(command, env=ENVIRONMENT, cwd=tmp_path, stdout=log, stderr=log)
        killed = worker_of(outputs)
        os.kill(killed, signal.SIGKILL)
        status = process.wait()
        log.seek(0)
        said = log.read()
    if launcher == "ray":  # it starts the job again in another worker
        assert status == 0
    else:
        assert status == 1 and f"error: process {killed} on " in said and "pruner.d_thresh=" in said
        assert sweep(outputs, *long, f"hydra/launcher={launcher}", *options).wait() == 0
    assert not list(tmp_path.glob(".nuwa-*"))
    whole = tmp_path / "whole"
    assert sweep(whole, *long).wait() == 0 and len(found(whole)) == 3
    assert found(outputs) == found(whole)


def test_lost_jobs_are_named(tmp_path, capsys):
    (tmp_path / f"{platform.node()}-{os.getpid()}").write_text("seed=1")
    (tmp_path / f"{platform.node()}-999999999").write_text("seed=2 pruner=nuwa")
    (tmp_path / "another-host-1").write_text("seed=3")
    name_lost_jobs(tmp_path)
    said = capsys.readouterr().err.splitlines()
    assert [line.partition("job ")[2] for line in said] == [
        "seed=3; the same command goes on from there",
        "seed=2 pruner=nuwa; the same command goes on from there",
    ]
    assert "process 1 on another-host was lost" in said[0]
