"""Runs of another model beside a printed table: retention per task, where both have one. Shown, never judged.

A tiny model has no GQA and no RefCOCO, but it answers questions and finds boxes, and keeps a share of either.
"""

from __future__ import annotations

from collections.abc import Iterable

from nuwa.evaluation.runs import Result
from nuwa.report.expected import PaperTable, PrintedRow, benchmark, mean_share
from nuwa.report.formats import Cells
from nuwa.report.paper import ABSENT, MISSING, RANDOM_WEIGHTS, Run, chosen, matches, model_name
from nuwa.report.side_by_side import label

TASKS = {"vqa": "questions", "vg": "boxes"}
LEGEND = (
    "another model than the paper's: percent of its unpruned score [95 %] / of the paper's (mean over columns); "
    "missing: no run, none here: no such method"
)


def stand_in_rows(table: PaperTable, results: Iterable[Result]) -> list[Cells]:
    """Every printed row for each model that has runs of it, with metrics that are those of tasks."""
    if not any(benchmark(column).task for column in table.columns):
        return []
    named = {model_name(model) for model in table.models}
    others = [run for run in chosen(results) if run[0].model not in named and not run[0].model.endswith(RANDOM_WEIGHTS)]
    found = matches(table, [run for run in others if _finished_or_failed(run[1])])
    return [_row(table, model, *match) for model, own in found.items() for match in own]


def _finished_or_failed(result: Result) -> bool:
    """Whether a run says something about a task: a score, or why there is none."""
    tasks = {name.split("/")[0] for name in result.get("metrics", {})}
    return result.get("status") != "done" or bool(tasks & set(TASKS))


def _row(table: PaperTable, model: str, row: PrintedRow, pruner: str, run: Run | None) -> Cells:
    result = {} if run is None else run[1]
    state = result.get("status", MISSING if pruner else ABSENT)
    cells = {"model": model, "method": label(row, pruner), "tokens": row.tokens}
    for task, name in TASKS.items():
        columns = [column for column in table.columns if benchmark(column).task == task]
        paper = mean_share(row, table.unpruned[row.model], columns)
        ours = _ours(result, task) if state == "done" else state if columns or run else ""
        cells[name] = f"{ours} / {'' if paper is None else f'{paper:.1f}'}".strip(" /")
    reason = "" if state == "done" else result.get("reason", "")
    return cells | {"n": str(result.get("n", "")), "run": result.get("run_key", ""), "reason": reason}


def _ours(result: Result, task: str) -> str:
    """Retention of the task's headline with its interval."""
    headline = next((name for name in result.get("metrics", {}) if name.startswith(f"{task}/")), None)
    kept = result.get("retention", {}).get(headline)
    if kept is None:
        return "not asked" if headline is None else "0 unpruned" if result.get("retention") else "no unpruned run"
    value = f"{100 * kept['value']:.1f}"
    return value if kept["low"] == kept["high"] else f"{value} [{100 * kept['low']:.1f}, {100 * kept['high']:.1f}]"


def reasons(rows: list[Cells]) -> list[str]:
    """Why runs have no result."""
    return [f"{row['method']} {row['tokens']}: {row['run']}: {row['reason']}" for row in rows if row.get("reason")]


def shown(rows: list[Cells]) -> list[str]:
    """Columns worth showing: the model only where there are several."""
    several = len({row["model"] for row in rows}) > 1
    return [name for name in rows[0] if name not in ("run", "reason") and (name != "model" or several)]


def model_names(rows: list[Cells]) -> str:
    """The models of the rows."""
    return ", ".join(dict.fromkeys(row["model"] for row in rows))
