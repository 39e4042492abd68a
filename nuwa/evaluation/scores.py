"""One row per run and metric, for tables, plots and dashboards. Numbers become text where they are shown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from nuwa.evaluation.runs import Run


@dataclass(frozen=True)
class RunScore:
    """One metric of a run; a run without a result has one without a metric, which says what became of it."""

    run: Run
    metric: str = ""

    @property
    def task(self) -> str:
        """The task that it is a metric of."""
        return self.metric.partition("/")[0]

    @property
    def subject(self) -> str:
        """The task, and the part of it that it is a metric of."""
        return " ".join([self.task, *self.metric.split("/")[2:]])

    @property
    def unread(self) -> float | None:
        """The share of the task's answers in which nothing could be read, which the metric fails or leaves out."""
        return self.run.unread.get(self.task)

    @property
    def value(self) -> float | None:
        """The metric, in its benchmark's unit."""
        return self.run.metrics.get(self.metric)

    @property
    def error(self) -> float | None:
        """Its standard error."""
        return self.run.standard_errors.get(self.metric)

    @property
    def interval(self) -> list[float] | None:
        """Its 95 % interval, of a metric that is right or wrong on each sample."""
        return self.run.intervals.get(self.metric)

    @property
    def retained(self) -> dict[str, float]:
        """``value``, ``low`` and ``high`` of its retention; empty where there is none."""
        return self.run.retention.get(self.metric, {})

    @property
    def record(self) -> dict[str, Any]:
        """The score and the choices behind it as one flat typed row, for dashboards that sort, filter and group."""
        run, choices = self.run, self.run.choices
        return {
            "model": choices.model,
            "dataset": choices.dataset,
            "method": choices.method,
            "options": ", ".join(f"{name}={value}" for name, value in choices.changed.items()),
            "position": choices.strategy,
            "calibration": choices.calibration,
            "budget": choices.budget,
            "seed": run.config.get("seed"),
            "metric": self.metric,
            "value": self.value,
            "error": self.error,
            "retained": self.retained.get("value"),
            "retained_low": self.retained.get("low"),
            "retained_high": self.retained.get("high"),
            "unread": self.unread,
            "tokens": run.tokens_entering,
            "llm_tflops": run.llm_tflops,
            "n": run.n,
            "status": run.status,
            "run": run.run_key,
        }


def scores_of(run: Run) -> list[RunScore]:
    """The scores of a run, at least one."""
    return [RunScore(run, metric) for metric in run.metrics or ("",)]


def headlines(runs: Sequence[Run], parts: bool = False) -> list[str]:
    """The first metric of every task that any run has, with ``parts`` each followed by its own (`parts_of`)."""
    first: dict[str, str] = {}
    for run in runs:
        first |= {task: name for task, name in run.headlines.items() if task not in first}
    known = list(dict.fromkeys(name for run in runs for name in run.metrics))
    return [name for head in first.values() for name in (head, *(parts_of(head, known) if parts else ()))]


def parts_of(metric: str, names: Iterable[str]) -> list[str]:
    """Those of ``names`` that are a metric of a part of the samples behind ``metric``: of a size, a kind, a source.

    >>> parts_of("read/exact_match", ["read/exact_match", "read/exact_match/small", "vqa/exact_match/count"])
    ['read/exact_match/small']
    """
    return [name for name in names if name.startswith(f"{metric}/")]
