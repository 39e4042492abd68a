"""Runs of another model beside a printed table: retention per task, where both have one. Shown, never judged.

A tiny model has no GQA and no RefCOCO, but it answers questions and finds boxes, and keeps a share of either.
"""

from __future__ import annotations

from collections.abc import Iterable, Set

from nuwa.evaluation.runs import Run
from nuwa.evaluation.scores import RunScore
from nuwa.report.paper.matching import DONE, MISSING, NO_METHOD, RANDOM_WEIGHTS, matches, model_name, with_image_tokens
from nuwa.report.paper.printed import PaperTable, PrintedRow, mean_share, printed_benchmark
from nuwa.report.paper.side_by_side import label
from nuwa.report.tables.formats import TableRow

TASK_NAMES = {"vqa": "questions", "vg": "boxes", "video": "videos"}
RETENTION_LEGEND = (
    "another model than the paper's: percent of its unpruned score [95 %] / of the paper's (mean over columns); "
    "missing: no run, none here: no such method"
)


def retention_rows(table: PaperTable, runs: Iterable[Run]) -> list[TableRow]:
    """Every printed row for each model that has runs of it, with metrics that are those of tasks."""
    tasks = {printed_benchmark(column).task for column in table.columns} - {""}
    if not tasks:
        return []
    named = {model_name(model) for model in table.models}
    others = [run for run in with_image_tokens(runs) if run.choices.model not in named and _says_something(run, tasks)]
    return [_row(table, model, *match) for model, own in matches(table, others).items() for match in own]


def _says_something(run: Run, tasks: Set[str]) -> bool:
    """Whether a run says something about a table's tasks: a score on videos or pictures, as these are, or why not."""
    known = run.headlines.keys() & TASK_NAMES.keys()
    alike = bool(known) and ("video" in known) == ("video" in tasks)
    return not run.choices.model.endswith(RANDOM_WEIGHTS) and (not run.done or alike)


def _row(table: PaperTable, model: str, row: PrintedRow, pruner: str, run: Run | None) -> TableRow:
    state = (MISSING if pruner else NO_METHOD) if run is None else run.status
    cells: TableRow = {"model": model, "method": label(row, pruner), "tokens": row.tokens}
    if len(table.models) > 1:
        cells["paper's model"] = row.model
    tasks = [printed_benchmark(column).task for column in table.columns]
    for task, name in TASK_NAMES.items():
        if ("video" in tasks) != (task == "video"):
            continue
        columns = [column for column, own in zip(table.columns, tasks, strict=True) if own == task]
        paper = mean_share(row, table.unpruned[row.model], columns)
        ours = _ours(run, task) if run is not None and state == DONE else state if columns or run else ""
        cells[name] = f"{ours} / {'' if paper is None else f'{paper:.1f}'}".strip(" /")
    if run is None:
        return cells | {"n": None, "run": "", "reason": ""}
    return cells | {"n": run.n, "run": run.run_key, "reason": "" if run.done else run.reason}


def _ours(run: Run, task: str) -> str:
    """Retention of the task's headline with its interval."""
    if task not in run.headlines:
        return "not asked"
    kept = RunScore(run, run.headlines[task]).retained
    if not kept:
        return "0 unpruned" if run.retention else "no unpruned run"
    value = f"{100 * kept['value']:.1f}"
    return value if kept["low"] == kept["high"] else f"{value} [{100 * kept['low']:.1f}, {100 * kept['high']:.1f}]"
