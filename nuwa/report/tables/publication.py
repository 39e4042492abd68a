"""Runs as tables for a paper: one for each model and data set, budgets as groups, names written out, percent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nuwa.evaluation.runs import Run
from nuwa.evaluation.scores import RunScore, headlines
from nuwa.pruners.catalogue import find_method
from nuwa.report.labels import dataset_label, method_label, metric_label, model_label, position_label
from nuwa.report.tables.formats import CellValue, TableRow, value_text
from nuwa.report.tables.runs import RunsTable, by_model_and_dataset
from nuwa.report.tables.section import Section, filled_columns

_NAMED = ("budget", "position", "model", "dataset", "limit")
"""Choices that a paper's table does not name in a column of this name."""
_MANY = 3  # metrics that have room for what is kept of them
_GIGA = 0.1
"""TFLOPs below which a table is in GFLOPs."""


def publication_sections(runs: Sequence[Run], parts: bool = False) -> list[Section]:
    """The finished runs; what became of the others, and where methods were published, are notes.

    What is kept of the unpruned model's scores stands beside these, or, of many scores, in a table of its own.
    ``parts`` as in `RunsTable`.
    """
    groups = [own for own in by_model_and_dataset(runs).values() if any(run.done for run in own)]
    return [section for own in groups for section in _sections(own, parts)]


def _sections(runs: Sequence[Run], in_parts: bool) -> list[Section]:
    done = sorted((run for run in runs if run.done), key=_size)
    table, metrics = RunsTable(done), _columns(done, in_parts)
    rows = [_row(table, run, metrics) for run in sorted(table.runs, key=_size)]
    counts = sorted(run.n for run in done if run.n is not None)
    unit = "percent" if all(metric.scale == 100 for metric in metrics) else "percent or points"
    scores, kept = f"scores in {unit} ± their standard errors (none where all samples agree)", ""
    if any(run.retention for run in done):
        kept = "percent of the unpruned model's scores that is kept"
    parts = [scores, kept] if len(metrics) > _MANY else [", and ".join(filter(None, [scores, kept]))]
    where = f"{model_label(done[0].choices.model)} on {dataset_label(done[0].choices.dataset)}"
    samples = f"; {' to '.join(map(str, dict.fromkeys((counts[0], counts[-1]))))} samples" if counts else ""
    hidden = [[metric.kept for metric in metrics], [metric.label for metric in metrics]] if len(parts) > 1 else [[]]
    return [
        Section(
            f"{where}{', kept' * (part == kept)}: {part}{samples}.",
            rows,
            filled_columns(rows, left_out),
            _notes(runs, done),
            group="Budget",
            ranked=[name for metric in metrics for name in (metric.label, metric.kept)],
        )
        for part, left_out in zip(parts, hidden, strict=True)
        if part
    ]


def _notes(runs: Sequence[Run], done: Sequence[Run]) -> list[str]:
    """What went wrong, and where methods were published."""
    notes = [f"{run.run_key}: {run.status}: {run.reason}" for run in runs if not run.done]
    notes += [f"{run.run_key}: {run.n_failed} samples failed" for run in done if run.n_failed]
    return [*notes, *(f"{run.run_key}: {run.warning}" for run in done if run.warning), *_sources(done)]


@dataclass(frozen=True)
class _Column:
    """A metric, what it is called, and times what it is printed."""

    metric: str
    label: str
    scale: float

    @property
    def kept(self) -> str:
        return f"{self.label}, kept"


def _columns(runs: Sequence[Run], parts: bool) -> list[_Column]:
    dataset = runs[0].choices.dataset
    largest = {name: max(run.metrics.get(name, 0) for run in runs) for name in headlines(runs, parts)}
    labels = {name: metric_label(name, dataset) for name in largest}
    if len(set(labels.values())) < len(labels):  # no two may share a column
        labels = dict(zip(labels, labels, strict=True))
    return [_Column(name, labels[name], 100 if top <= 1 else 1) for name, top in largest.items()]


def _row(table: RunsTable, run: Run, columns: Sequence[_Column]) -> TableRow:
    words = [run.choices.budget, "of the tokens" if run.choices.budget.endswith("%") else ""]
    row: TableRow = {"Budget": " ".join(filter(None, words)), "Method": method_label(run.method)}
    row["Position ids"] = "" if run.method == "none" else position_label(run.choices.strategy)
    row |= {name: value for name, value in table.choices(run).items() if name not in ("method", *_NAMED)}
    row["Tokens"] = value_text(run.tokens_entering, ".1f")
    small = max(other.llm_tflops or 0 for other in table.runs) < _GIGA
    tflops = None if run.llm_tflops is None else run.llm_tflops * (1000 if small else 1)
    row["GFLOPs" if small else "TFLOPs"] = value_text(tflops, ".3f")
    for column in columns:
        score = RunScore(run, column.metric)
        row[column.label] = _percent(score.value, score.error, column.scale)
        row[column.kept] = _percent(score.retained.get("value"), None, 100)
    return row


def _percent(value: float | None, error: float | None, scale: float) -> CellValue:
    if value is None:
        return ""
    return f"{scale * value:.1f}" + (f" ±{scale * error:.1f}" if error else "")


def _size(run: Run) -> tuple[bool, float, str]:
    """Sorts budgets from large to small, the unpruned run first."""
    choices = run.choices
    tokens = choices.average or (choices.ratio or 1) * (run.tokens_per_image or 1)
    return run.method != "none", -tokens, choices.budget


def _sources(runs: Sequence[Run]) -> list[str]:
    """Where each method was published, for the bibliography."""
    found = {}
    for method in dict.fromkeys(run.method for run in runs):
        try:
            found[method_label(method)] = find_method(method)[0].info.paper
        except ValueError:  # of a package that this machine does not have
            continue
    return [f"{name}: {paper}" for name, paper in sorted(found.items()) if paper]
