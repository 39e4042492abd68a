"""The parts of a report: a table each, with a title, remarks, and whether a check of it fails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from nuwa.evaluation.runs import Result
from nuwa.report import cost, side_by_side, stand_in, table4
from nuwa.report.expected import PaperTable
from nuwa.report.formats import Cells, csv_text, latex_text, markdown_text, print_text
from nuwa.report.paper import ABSENT, MISSING, compare
from nuwa.report.printed import RetentionCheck, retention_checks
from nuwa.report.table import beside, reasons, rows_of, shown_columns


@dataclass(frozen=True)
class Section:
    """One table: ``columns`` of ``rows``; as CSV every column of ``all_rows``, or of ``rows`` if there are none."""

    title: str
    rows: Sequence[Cells]
    columns: Sequence[str]
    remarks: Sequence[str] = ()
    all_rows: Sequence[Cells] = field(default=())
    fails: bool = False

    def show(self, form: str) -> None:
        """Print it as ``table``, ``markdown``, ``latex`` or ``csv``."""
        if form == "table":
            print_text(self.rows, self.columns, self.title, self.remarks)
        else:
            print(self.text(form))

    def text(self, form: str) -> str:
        """As ``markdown``, ``latex`` or ``csv``; the latter without title and remarks."""
        if form == "markdown":
            return f"**{self.title}**\n\n{markdown_text(self.rows, self.columns, self.remarks)}"
        if form == "latex":
            return f"% {self.title}\n{latex_text(self.rows, self.columns, self.remarks)}"
        return csv_text(self.all_rows or self.rows)


def runs_section(results: Sequence[Result], title: str, full: bool = False, choice: str = "") -> Section:
    """Every run, whatever it was; ``full`` as in `rows_of`, ``choice`` as in `beside`."""
    rows = rows_of(results, full)
    if choice:
        rows = beside(rows, choice)
    return Section(title, rows, shown_columns(rows), reasons(rows))


def paper_sections(table: PaperTable, results: Sequence[Result]) -> list[Section]:
    """Runs beside a printed table: those of its models cell by cell, those of others by their retention or costs."""
    cells = compare(table, results)
    others, costs = stand_in.stand_in_rows(table, results), cost.cost_rows(table, results)
    touched = any(cell.state not in (MISSING, ABSENT) for cell in cells)
    unknown = [f"{run['run_key']}: {run.get('reason', '')}" for run in results if not run.get("config")]
    sections = []
    if touched or not (others or costs):
        rows = side_by_side.wide_rows(table, cells)
        remarks = [side_by_side.LEGEND, *side_by_side.remarks(cells), *unknown]
        columns = [name for name in rows[0] if any(row[name] for row in rows)]
        long = side_by_side.long_rows(table, cells)
        sections.append(Section(heading(table), rows, columns, remarks, long, side_by_side.failed(cells)))
    for rows, legend in ((others, stand_in.LEGEND), (costs, cost.LEGEND)):
        if rows:
            title = f"{heading(table)}; here with {stand_in.model_names(rows)}"
            remarks = [legend, *stand_in.reasons(rows), *unknown]
            sections.append(Section(title, rows, stand_in.shown(rows), remarks, fails=not touched))
    return sections


def printed_sections(table: PaperTable) -> list[Section]:
    """A printed table as it is, and checked against itself: its retention column, or Table 4's costs.

    Where nothing follows from anything, a check has nothing to pass.
    """
    if table.name == "table4":
        return [_plain_section(table), _analytic_section(table)]
    checks = retention_checks(table)
    if not checks:
        return [replace(_plain_section(table), fails=True)]
    return [_plain_section(table), _retention_section(table, checks)]


def _plain_section(table: PaperTable) -> Section:
    """Every printed number."""
    names = ("model", "tokens", "method")
    rows = [
        {name: getattr(row, name) for name in names} | {c: _printed(row.cells.get(c)) for c in table.columns}
        for row in table.rows
    ]
    columns = [name for name in rows[0] if name != "model" or len(table.models) > 1]
    return Section(heading(table), rows, columns, ["as printed; name a folder of runs to compare"])


def _printed(value: float | None) -> str:
    return "" if value is None else format(value, ".8g")


def _analytic_section(table: PaperTable) -> Section:
    analytic = table4.analytic_rows(table)
    rows = table4.text_rows(analytic)
    remarks = [
        f"no schedule of 64 tokens entering a layer on average costs more than {table4.most_tflops(64):.4f} TFLOPs",
        *dict.fromkeys(f"{note['method']}: {note['note']}" for note in table.notes),
    ]
    fails = not all(row.comes_out for row in analytic)
    return Section(f"{heading(table)}: what gives these costs", rows, list(rows[0]), remarks, fails=fails)


def _retention_section(table: PaperTable, checks: Sequence[RetentionCheck]) -> Section:
    rows = [
        {
            "model": check.row.model,
            "method": check.row.method,
            "tokens": check.row.tokens,
            "printed": f"{check.printed:g}",
            "from the cells": f"{check.computed:.2f}",
            "difference": f"{check.computed - check.printed:+.2f}",
            "comes out": "yes" if check.comes_out else "NO",
        }
        for check in checks
    ]
    off = [check for check in checks if not check.comes_out]
    remarks = [f"{len(checks) - len(off)} of {len(checks)} printed retentions follow from the printed cells to 0.1"]
    remarks += [f"{c.row.method} {c.row.tokens}: {c.note or 'no explanation known'}" for c in off]
    columns = [name for name in rows[0] if name != "model" or len(table.models) > 1]
    title = f"{heading(table)}: its retention column"
    return Section(title, rows, columns, remarks, fails=any(not check.note for check in off))


def heading(table: PaperTable) -> str:
    """``table5: VQA (arXiv 2602.02951v1, Table 5)``"""
    return f"{table.name}: {table.title} ({table.source})"
