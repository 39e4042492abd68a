"""Runs beside a printed table, cell by cell: ours, the paper's, and why there is none where there is none."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from nuwa.evaluation.runs import Choices, Result, choices_of, measured
from nuwa.report.expected import SUMMARIES, Benchmark, PaperTable, PrintedRow, benchmark

DONE, LIMITED, MISSING, FAILED, REFUSED, UNREACHABLE, UNFINISHED, ABSENT = (
    "done", "limited", "missing", "failed", "refused", "unreachable", "unfinished", "none here",
)  # fmt: skip
NO_RUN = "no run"
MIXED = (
    "ours is the mean of runs that differ in the options of data set or model, in decoding, limit or protocol: "
    "report on one of them"
)
Run = tuple[Choices, Result]
Runs = Sequence[Run]
Match = tuple[PrintedRow, str, Run | None]
QUARTERS = {"0-7": "1/4", "8-15": "2/4", "16-23": "3/4", "24-31": "4/4"}  # Table 15's layers, of 32
RANDOM_WEIGHTS = "_random"  # such a model costs what the trained one costs, and its answers mean nothing
SAME_SHARE = 0.01  # 0.0556 of the tokens is 160 of 2880


@dataclass(frozen=True)
class Cell:
    """One printed number and ours, in the printed unit; ``pruner`` is the method here that stands for the row's.

    ``ours`` is the mean over runs (seeds); ``error`` their standard deviation, of a single run its standard error.
    ``limited``: computed from a part of the benchmark's samples. ``note``: the printed number stands for something
    else. Neither is judged.
    """

    row: PrintedRow
    pruner: str
    benchmark: Benchmark
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
        return self.judged and abs(self.difference) > self.benchmark.allowed(self.printed) + 1e-9


def model_name(printed: str) -> str:
    """``llava-1.5-7b`` as conf/model has it."""
    return re.sub(r"[-.]", "_", printed)


def chosen(results: Iterable[Result]) -> Runs:
    """Results beside the choices they were made with.

    A run that failed has counted no tokens; an image has as many as in other runs of its model and data.
    """
    runs = [(choices_of(result), result) for result in results]
    counted = {(c.model, c.dataset): r["tokens_per_image"] for c, r in runs if "tokens_per_image" in r}
    return [(c, {"tokens_per_image": counted.get((c.model, c.dataset))} | r) for c, r in runs]


def matches(table: PaperTable, runs: Runs) -> dict[str, list[Match]]:
    """For each model with runs of a table, each printed row with the methods here and the runs that stand for it.

    A row's first method comes with None where it has no run.
    """
    found: dict[str, list[Match]] = {}
    for model in dict.fromkeys(choices.model for choices, _ in runs):
        own = [run for run in runs if run[0].model == model]
        rows: list[Match] = []
        for row in table.rows:
            for number, name in enumerate(row.pruners or ("",)):
                mine = [(row, name, run) for run in own if made_for(table, row, name, run)]
                rows += mine or [(row, name, None)] * (number == 0)
        if any(run is not None for *_, run in rows):
            found[model] = rows
    return found


def compare(table: PaperTable, results: Iterable[Result]) -> list[Cell]:
    """Every printed number of a table but its summaries, in its order.

    A row that several methods stand for appears once for each that has a run, at least for the first.
    """
    runs, cells = chosen(results), []
    for row in table.rows:
        for number, pruner in enumerate(row.pruners or ("",)):
            own = [run for run in runs if _same_model(run[0], row) and made_for(table, row, pruner, run)]
            if own or number == 0:
                cells += [_cell(table, row, pruner, column, own) for column in row.cells if column not in SUMMARIES]
    return cells


def made_for(table: PaperTable, row: PrintedRow, pruner: str, run: Run) -> bool:
    """Whether a run, on whatever model and data, has the method, options, ids and budget of a row."""
    choices, result = run
    if choices.method != pruner or not choices.has_options(row.options) or not _same_blocking(choices, row):
        return False
    if pruner == "none":  # where nothing is pruned, budget and ids do not matter
        return True
    return choices.position == row.position and _same_budget(choices, result, row, table.unpruned.get(row.model))


def _same_blocking(choices: Choices, row: PrintedRow) -> bool:
    if choices.blocking is None or row.blocking is None:
        return choices.blocking == row.blocking
    (source, layers), (printed_source, printed) = choices.blocking, row.blocking
    return source == printed_source and layers in (printed, QUARTERS[printed])


def _same_model(choices: Choices, row: PrintedRow) -> bool:
    return choices.model.removesuffix(RANDOM_WEIGHTS) == model_name(row.model)


def _same_budget(choices: Choices, result: Result, row: PrintedRow, whole: PrintedRow | None) -> bool:
    if whole is None:
        return False
    if _same_model(choices, row) and choices.average is not None and row.average is not None:
        return choices.average == row.average
    share = choices.ratio
    tokens = result.get("tokens_per_image") or whole.average
    if choices.average is not None and tokens:
        share = choices.average / tokens
    return share is not None and abs(share / row.share(whole) - 1) < SAME_SHARE


def _cell(table: PaperTable, row: PrintedRow, pruner: str, column: str, runs: Runs) -> Cell:
    """The cell of one column, from the runs of its row."""
    asked, printed = benchmark(column), row.cells[column]
    note = table.note(row, column)
    if not pruner or not asked.known:
        reason = f"there is no method for {row.method}" if not pruner else f"nothing here measures {column}"
        return Cell(row, pruner, asked, printed, ABSENT, reason=reason, note=note)
    found = [(choices, result, metric) for choices, result in runs if (metric := _metric(asked, choices)) is not None]
    done = [(*_number(asked, result, metric), choices, result) for choices, result, metric in found]
    done = [entry for entry in done if entry[0] is not None]
    done = [entry for entry in done if not entry[2].limited] or done
    if not done:
        state, reason = _why_not([result for _, result, _ in found])
        return Cell(row, pruner, asked, printed, state, reason=reason, note=note)
    values = [value for value, *_ in done]
    error = stdev(values) if len(values) > 1 else done[0][1]
    if asked.speed:
        note = f"ours on {done[0][3].get('environment', {}).get('device')}, batch 1"
    elif asked.runs and len({choices.rest for *_, choices, _ in done}) > 1:
        note = MIXED
    whole = not asked.runs or not any(choices.limited or result.get("n_failed") for _, _, choices, result in done)
    return Cell(row, pruner, asked, printed, DONE if whole else LIMITED, mean(values), error, note=note)


def _metric(asked: Benchmark, choices: Choices) -> str | None:
    """The metric by which a run stands for a column; None if it has another data set, or answers by random weights."""
    if not asked.runs:
        return asked.result or asked.speed
    if choices.model.endswith(RANDOM_WEIGHTS):
        return None
    return asked.runs.get(choices.dataset, asked.runs.get(f"{choices.dataset}:{choices.split}"))


def _number(asked: Benchmark, result: Result, metric: str) -> tuple[float | None, float | None]:
    """A run's value and standard error in the printed unit, None where it has none."""
    values = measured(result) if asked.speed else result if asked.result else result.get("metrics", {})
    numbers = values.get(metric), result.get("standard_errors", {}).get(metric)
    return tuple(None if number is None else asked.scale * number for number in numbers)


def _why_not(results: Sequence[Result]) -> tuple[str, str]:
    """State and reason of a cell that no finished run gives."""
    for state in (FAILED, REFUSED, UNREACHABLE, UNFINISHED):
        for result in results:
            if result.get("status") == state:
                return state, f"{result['run_key']}: {result.get('reason', '')}"
    return MISSING, f"{results[0]['run_key']}: done, without this metric" if results else NO_RUN
