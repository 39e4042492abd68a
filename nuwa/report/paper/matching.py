"""Runs beside a printed table, number by number: ours, the paper's, and why there is none where there is none."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import mean, stdev

from nuwa.evaluation.choices import Choices
from nuwa.evaluation.runs import Run
from nuwa.report.paper.printed import SUMMARIES, PaperTable, PrintedBenchmark, PrintedRow, printed_benchmark

DONE, LIMITED, MISSING, FAILED, REFUSED, UNREACHABLE, UNFINISHED, NO_METHOD = (
    "done", "limited", "missing", "failed", "refused", "unreachable", "unfinished", "none here",
)  # fmt: skip
NO_RUN = "no run"
MIXED = (
    "ours is the mean of runs that differ in the options of data set or model, in decoding, limit or protocol: "
    "report on one of them"
)
Match = tuple[PrintedRow, str, Run | None]
"""A printed row, the method here that stands for it (empty: none) and a run of it (None: there is none)."""
QUARTERS = {"0-7": "1/4", "8-15": "2/4", "16-23": "3/4", "24-31": "4/4"}  # Table 15's layers, of 32
RANDOM_WEIGHTS = "_random"  # such a model costs what the trained one costs, and its answers mean nothing
SAME_SHARE = 0.01  # 0.0556 of the tokens is 160 of 2880


@dataclass(frozen=True)
class PaperValue:
    """One printed number and ours, in the printed unit; ``pruner`` is the method here that stands for the row's.

    ``ours`` is the mean over runs (seeds); ``error`` their standard deviation, of a single run its standard error.
    The state ``limited`` means: computed from a part of the benchmark's samples. ``note``: the printed number stands
    for something else. Neither is judged.
    """

    row: PrintedRow
    pruner: str
    benchmark: PrintedBenchmark
    printed: float
    state: str
    ours: float | None = None
    error: float | None = None
    reason: str = ""
    note: str = ""

    @property
    def difference(self) -> float | None:
        """Ours less the paper's."""
        return None if self.ours is None else self.ours - self.printed

    @property
    def judged(self) -> bool:
        """Whether ours has to be the printed number."""
        return self.state == DONE and not self.note

    @property
    def outside(self) -> bool:
        """Whether ours is further from the printed number than it may be."""
        allowed = self.benchmark.allowed(self.printed) + 1e-9
        return self.judged and self.difference is not None and abs(self.difference) > allowed


def model_name(printed: str) -> str:
    """``llava-1.5-7b`` as conf/model has it."""
    return re.sub(r"[-.]", "_", printed)


def with_image_tokens(runs: Iterable[Run]) -> list[Run]:
    """The runs; one that failed and counted no tokens gets the count of another run of its model and data set."""
    tried = [((run.choices.model, run.choices.dataset), run) for run in runs]
    known = {images: run.tokens_per_image for images, run in tried if run.tokens_per_image is not None}
    return [replace(r, tokens_per_image=known.get(i)) if r.tokens_per_image is None else r for i, r in tried]


def matches(table: PaperTable, runs: Sequence[Run]) -> dict[str, list[Match]]:
    """By model that has any run here: every printed row with the methods that stand for it, and each of their runs."""
    found: dict[str, list[Match]] = {}
    for model in dict.fromkeys(run.choices.model for run in runs):
        lines = _lines(table, [run for run in runs if run.choices.model == model], same_model=False)
        if any(mine for *_, mine in lines):
            found[model] = [(row, pruner, run) for row, pruner, mine in lines for run in mine or (None,)]
    return found


def _lines(table: PaperTable, runs: Sequence[Run], same_model: bool) -> list[tuple[PrintedRow, str, list[Run]]]:
    """Every printed row with each method here that stands for it (none: an empty name), and its runs.

    With ``same_model`` only runs of the row's model. A row that several methods stand for appears once for each that
    has a run, at least for the first.
    """
    lines = []
    for row in table.rows:
        for pruner in row.pruners or ("",):
            own = [run for run in runs if _made_for(table, row, pruner, run)]
            own = [run for run in own if not same_model or _same_model(run.choices, row)]
            if own or pruner in row.pruners[:1] or not pruner:
                lines.append((row, pruner, own))
    return lines


def match_paper(table: PaperTable, runs: Iterable[Run]) -> list[PaperValue]:
    """Every printed number of a table but its summaries, in its order."""
    lines = _lines(table, with_image_tokens(runs), same_model=True)
    return [_value(table, *line, column) for line in lines for column in line[0].cells if column not in SUMMARIES]


def _made_for(table: PaperTable, row: PrintedRow, pruner: str, run: Run) -> bool:
    """Whether a run, on whatever model and data, has the method, options, ids and budget of a row."""
    choices = run.choices
    if choices.method != pruner or not choices.has_options(row.options) or not _same_blocking(choices, row):
        return False
    if pruner == "none":  # where nothing is pruned, budget and ids do not matter
        return True
    same = (choices.position, choices.calibration, choices.coordinates) == (row.position, "none", None)
    return same and _same_budget(run, row, table.unpruned.get(row.model))


def _same_blocking(choices: Choices, row: PrintedRow) -> bool:
    if choices.blocking is None or row.blocking is None:
        return choices.blocking == row.blocking
    (source, layers), (printed_source, printed) = choices.blocking, row.blocking
    return source == printed_source and layers in (printed, QUARTERS[printed])


def _same_model(choices: Choices, row: PrintedRow) -> bool:
    return choices.model.removesuffix(RANDOM_WEIGHTS) == model_name(row.model)


def _same_budget(run: Run, row: PrintedRow, whole: PrintedRow | None) -> bool:
    if whole is None:
        return False
    choices = run.choices
    if _same_model(choices, row) and choices.average is not None and row.average is not None:
        return choices.average == row.average
    share = choices.ratio
    tokens = run.tokens_per_image or whole.average
    if choices.average is not None and tokens:
        share = choices.average / tokens
    return share is not None and abs(share / row.share(whole) - 1) < SAME_SHARE


def _value(table: PaperTable, row: PrintedRow, pruner: str, runs: Sequence[Run], column: str) -> PaperValue:
    """The value of one column, from the runs of its row."""
    asked, printed, note = printed_benchmark(column), row.cells[column], table.note(row, column)
    if not pruner or not asked.known:
        reason = f"there is no method for {row.method}" if not pruner else f"nothing here measures {column}"
        return PaperValue(row, pruner, asked, printed, NO_METHOD, reason=reason, note=note)
    runs = [run for run in runs if _metric(asked, run.choices) is not None]
    done = [(number, run) for run in runs if (number := _number(asked, run)) is not None]
    done = [(number, run) for number, run in done if not run.choices.limited] or done
    if not done:
        state, reason = _why_not(runs)
        return PaperValue(row, pruner, asked, printed, state, reason=reason, note=note)
    numbers, used = [number for number, _ in done], [run for _, run in done]
    error = stdev(numbers) if len(numbers) > 1 else _number(asked, used[0], error=True)
    if asked.speed:
        note = f"ours on {used[0].environment.get('device')}, batch 1"
    elif asked.runs and len({run.choices.rest for run in used}) > 1:
        note = MIXED
    partial = asked.runs and any(run.choices.limited or run.n_failed for run in used)
    return PaperValue(row, pruner, asked, printed, LIMITED if partial else DONE, mean(numbers), error, note=note)


def _metric(asked: PrintedBenchmark, choices: Choices) -> str | None:
    """The metric by which a run stands for a column; None if it has another data set, or answers by random weights."""
    if not asked.runs:
        return asked.result or asked.speed
    if choices.model.endswith(RANDOM_WEIGHTS):
        return None
    return asked.runs.get(choices.dataset, asked.runs.get(f"{choices.dataset}:{choices.split}"))


def _number(asked: PrintedBenchmark, run: Run, error: bool = False) -> float | None:
    """A run's value in the printed unit, or its standard error; None where it has none."""
    metric = _metric(asked, run.choices) or ""
    values = run.times if asked.speed else vars(run) if asked.result else run.metrics
    value = (run.standard_errors if error else values).get(metric)
    return None if value is None else asked.scale * value


def _why_not(runs: Sequence[Run]) -> tuple[str, str]:
    """State and reason of a value that no finished run gives."""
    for state in (FAILED, REFUSED, UNREACHABLE, UNFINISHED):
        for run in runs:
            if run.status == state:
                return state, f"{run.run_key}: {run.reason}"
    return MISSING, f"{runs[0].run_key}: done, without this metric" if runs else NO_RUN
