"""The sections of a report beside a printed table."""

from __future__ import annotations

from collections.abc import Sequence

from nuwa.evaluation.runs import Run
from nuwa.report.paper.cost import COST_LEGEND, cost_rows
from nuwa.report.paper.matching import MISSING, NO_METHOD, match_paper
from nuwa.report.paper.other_model import RETENTION_LEGEND, retention_rows
from nuwa.report.paper.printed import PaperTable
from nuwa.report.paper.side_by_side import PAPER_LEGEND, failed, long_rows, remarks, wide_rows
from nuwa.report.tables.formats import TableRow
from nuwa.report.tables.section import Section, filled_columns


def paper_sections(table: PaperTable, runs: Sequence[Run]) -> list[Section]:
    """Runs beside a printed table: those of its models number by number, others by their retention or costs."""
    values = match_paper(table, runs)
    others, costs = retention_rows(table, runs), cost_rows(table, runs)
    touched = any(value.state not in (MISSING, NO_METHOD) for value in values)
    unknown = [f"{run.run_key}: {run.reason}" for run in runs if not run.config]
    sections = []
    if touched or not (others or costs):
        rows, notes = wide_rows(table, values), [PAPER_LEGEND, *remarks(values), *unknown, *_unread(runs)]
        all_rows, columns = long_rows(table, values), filled_columns(rows)
        sections.append(Section(heading(table), rows, columns, notes, all_rows, fails=failed(values)))
    for rows, legend in ((others, RETENTION_LEGEND), (costs, COST_LEGEND)):
        if rows:
            reasons = [f"{r['method']} {r['tokens']}: {r['run']}: {r['reason']}" for r in rows if r.get("reason")]
            shown = _unread([run for run in runs if run.run_key in {row.get("run") for row in rows}])
            sections.append(_other_section(table, rows, [legend, *reasons, *unknown, *shown], fails=not touched))
    return sections


def _unread(runs: Sequence[Run]) -> list[str]:
    """Which scores hide answers that could not be read, on one line."""
    shares = [
        f"{run.method} {task} {share:.1%} ({run.run_key})"
        for run in runs
        for task, share in run.unread.items()
        if share
    ]
    return [f"answers that could not be read: {', '.join(shares)}"] if shares else []


def printed_section(table: PaperTable) -> Section:
    """Every printed number of a table."""
    rows: list[TableRow] = [
        {"model": row.model, "tokens": row.tokens, "method": row.method} | {c: row.cells.get(c) for c in table.columns}
        for row in table.rows
    ]
    remark = "as printed; name a folder of runs to compare"
    columns = [name for name in rows[0] if name != "model" or len(table.models) > 1]
    forms = dict.fromkeys(table.columns, ".8g")
    return Section(heading(table), rows, columns, [remark], number_formats=forms)


def heading(table: PaperTable) -> str:
    """``table5: VQA (arXiv 2602.02951v1, Table 5)``"""
    return f"{table.name}: {table.title} ({table.source})"


def _other_section(table: PaperTable, rows: Sequence[TableRow], notes: Sequence[str], fails: bool) -> Section:
    """Rows of models that are not the paper's; the model is shown only where there are several."""
    models = dict.fromkeys(str(row["model"]) for row in rows)
    hidden = ("run", "reason", *(["model"] if len(models) == 1 else []))
    title = f"{heading(table)}; here with {', '.join(models)}"
    return Section(title, rows, [name for name in rows[0] if name not in hidden], notes, fails=fails)
