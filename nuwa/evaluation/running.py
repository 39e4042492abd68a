"""What loggers are told while a run works: how fast it is, and what its answers add up to so far."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger

from nuwa.benchmarks.base import Benchmark, Scores
from nuwa.evaluation.journal import Journal, Row, answered
from nuwa.evaluation.loggers import log_running
from nuwa.evaluation.module import Evaluation
from nuwa.evaluation.runs import Run
from nuwa.evaluation.unharmed import unharmed

POINTS = 50
"""A run logs about that many times, however many batches it has."""


class RunningScores:
    """A benchmark's numbers over rows that come batch by batch, without keeping them.

    Only rows that are scored together (``meta["group"]``) are kept, because the rest of their group may follow.
    """

    def __init__(self, benchmark: Benchmark):
        self.benchmark = benchmark
        self.totals: dict[str, tuple[float, int]] = {}
        self.grouped: list[Row] = []

    def add(self, rows: Iterable[Row]) -> None:
        """Count answered rows."""
        alone: list[Row] = []
        for row in rows:
            (self.grouped if "group" in row.get("meta", {}) else alone).append(row)
        _count(self.totals, self.benchmark.units(alone))

    def numbers(self) -> Scores:
        """`Benchmark.metrics` of all rows so far; empty while there is too little to compute them from."""
        totals = dict(self.totals)
        _count(totals, self.benchmark.units(self.grouped))
        try:
            return self.benchmark.numbers({name: total / count for name, (total, count) in totals.items()})
        except (LookupError, ArithmeticError, ValueError):  # a part of the benchmark has no answer yet
            return {}


def _count(totals: dict[str, tuple[float, int]], units: Iterable[Scores]) -> None:
    for unit in units:
        for name, value in unit.items():
            total, count = totals.get(name, (0.0, 0))
            totals[name] = total + value, count + 1


class RunningMetrics(Callback):
    """Logs samples per second since the last point, and the headline of every task so far, by samples.

    ``total`` samples are this process's share, those of an earlier, interrupted process included. The clock on the wall
    counts, with reading and drawing. Nothing waits for the device: a batch is counted when its answers are text.
    """

    def __init__(self, logger: Logger, benchmark: Benchmark, journal: Journal, total: int):
        self.logger, self.journal, self.total = logger, journal, total
        self.scores = RunningScores(benchmark)
        self.working = True

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count what was answered before."""
        if len(self.journal):
            self._unharmed(lambda: self.scores.add(answered(self.journal.rows)))
        self.logged, self.at = len(self.journal), time.perf_counter()

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """Count a batch, and log if it is time for it."""
        assert isinstance(pl_module, Evaluation)
        self._unharmed(lambda: self.scores.add(row for _, _, row in pl_module.reports))
        if len(self.journal) - self.logged >= self.total / POINTS:
            self._unharmed(self._log)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the last batches, if there are any left."""
        if len(self.journal) > self.logged:
            self._unharmed(self._log)

    def _log(self) -> None:
        samples, now = len(self.journal), time.perf_counter()
        found = self.scores.numbers()
        headlines = {name: found[name] for name in Run(metrics=found).headlines.values()}
        rate = (samples - self.logged) / (now - self.at)
        self.logged, self.at = samples, now
        log_running(self.logger, {"samples_per_second": rate, **headlines}, samples)

    def _unharmed(self, work: Callable[[], None]) -> None:
        """Do something for the logger; the first error ends all of it, and never the run."""
        if self.working:
            self.working = False
            with unharmed("logger: nothing more is logged while the run works"):
                work()
                self.working = True
