"""Signals to real processes: how soon they end, with which status and words, and what another call finds."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from helpers.faults import rows_below
from helpers.jobs import ROOT, SMALL

SLOW = ("dataset.samples=400", "trainer.batch_size=4", "generation.max_new_tokens=16")
SWEEP = ("pruner.d_thresh=1,18", "-m")
SHARED = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")
SECONDS = 30
"""Within which a process has to end. torchrun takes about five on an idle machine."""


class Running:
    """``launch.py`` in a process of its own."""

    def __init__(self, folder, *overrides):
        toy = [part for part in SMALL if not part.startswith(("dataset.samples", "trainer.batch"))]
        command = [sys.executable, str(ROOT / "launch.py"), *toy, *SLOW, f"paths.outputs={folder}/out", *overrides]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self.folder, self.log = folder, folder / "printed.txt"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        self.family = []

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for one in [*self.children(), self.process]:
            one.kill()
        self.process.wait()

    def children(self):
        """Every process that it started, also those whose parent is gone."""
        if self.process.poll() is None:
            self.family = psutil.Process(self.process.pid).children(recursive=True)
        return [one for one in self.family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]

    def until(self, rows):
        """Wait until so many rows are on disk."""
        while rows_below(self.folder) < rows:
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.02)

    def gone(self):
        """Whether it and all that it started end in time."""
        end = time.monotonic() + SECONDS
        while time.monotonic() < end and (self.process.poll() is None or self.children()):
            time.sleep(0.05)
        return self.process.poll() is not None and not self.children()

    def send(self, number):
        """Send a signal; returns the exit status."""
        self.children()
        self.process.send_signal(number)
        assert self.gone(), self.children()
        return self.process.returncode


@pytest.mark.parametrize(
    ("number", "status", "words"),
    [
        pytest.param(signal.SIGINT, 130, "interrupted; the same command goes on", marks=pytest.mark.faults),
        (signal.SIGTERM, 143, "stopped by SIGTERM; the same"),
    ],
)
def test_in_the_unpruned_run_of_a_sweep(number, status, words, tmp_path):
    with Running(tmp_path, "pruner=nuwa", *SWEEP) as running:
        running.until(8)
        assert running.send(number) == status
        printed = running.log.read_text()
        assert words in printed and "Traceback" not in printed
    assert 8 <= rows_below(tmp_path) < 400


@pytest.mark.faults
@pytest.mark.parametrize("rows", [404, 812])
def test_in_later_jobs(rows, tmp_path):
    with Running(tmp_path, "pruner=nuwa", *SWEEP) as running:
        running.until(rows)
        assert running.send(signal.SIGTERM) == 143


@pytest.mark.faults
def test_inside_one_long_call_of_generate(tmp_path):
    """The batch is the whole job, so that Lightning would never look."""
    with Running(tmp_path, "baseline=skip", "trainer.batch_size=400", "generation.max_new_tokens=600") as running:
        while "timings" not in str(list(tmp_path.rglob("*"))) and not list(tmp_path.glob("out/main/*/.lock")):
            time.sleep(0.05)
        time.sleep(4)
        assert running.send(signal.SIGTERM) == 143


@pytest.mark.faults
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_workers_of_a_launcher_end_with_it(number, status, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="the extra launchers")
    with Running(tmp_path, "baseline=skip", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", *SWEEP) as running:
        running.until(12)
        assert len(running.children()) >= 2
        assert running.send(number) == status


@pytest.mark.faults
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_ranks_end_with_the_process_that_started_them(number, status, tmp_path):
    with Running(tmp_path, "baseline=skip", *SHARED) as running:
        running.until(12)
        assert len(running.children()) >= 2
        assert running.send(number) == status


@pytest.mark.faults
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed_ends_the_others(rank, tmp_path):
    with Running(tmp_path, "baseline=skip", *SHARED) as running:
        running.until(12)
        ranks = {int(one.environ().get("RANK", -1)): one for one in running.children()}
        ranks[rank].kill()
        assert running.gone() and running.process.returncode == 1
        assert f"process {rank} was ended by SIGKILL; the same command goes on" in running.log.read_text()
