"""A part of a report: a table with a title, remarks, and whether a check of it fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nuwa.command import plain_text
from nuwa.report.tables.formats import TableRow, TextRow, csv_text, markdown_text, print_text, value_text
from nuwa.report.tables.latex import latex_text

FORMS = ("table", "markdown", "csv", "latex")


@dataclass(frozen=True)
class Section:
    """One table: ``columns`` of ``rows``; as CSV every column of ``all_rows``, or of ``rows`` if there are none.

    ``number_formats`` says how the numbers of a column are written, e.g. ``.1f``. The first ``keys`` columns say what a
    row is about. ``group`` and ``ranked`` are those of `nuwa.report.tables.latex.latex_text`.
    """

    title: str
    rows: Sequence[TableRow]
    columns: Sequence[str]
    remarks: Sequence[str] = ()
    all_rows: Sequence[TableRow] = ()
    number_formats: Mapping[str, str] = field(default_factory=dict)
    fails: bool = False
    keys: int = 1
    group: str = ""
    ranked: Sequence[str] = ()

    def show(self, form: str) -> None:
        """Print it in one of `FORMS`."""
        if form == "table":
            print_text(self.texts(self.rows), self.columns, self.title, self.remarks, self.keys)
        else:
            print(self.text(form))

    def text(self, form: str) -> str:
        """As ``markdown``, ``latex`` or ``csv``; the latter without title and remarks."""
        if form == "csv":
            return csv_text(self.texts(self.all_rows or self.rows))
        rows = self.texts(self.rows)
        if form == "markdown":
            return f"**{plain_text(self.title)}**\n\n{markdown_text(rows, self.columns, self.remarks)}"
        return latex_text(rows, self.columns, self.remarks, self.title, self.group, self.ranked)

    def texts(self, rows: Sequence[TableRow]) -> list[TextRow]:
        """Rows as they are printed."""
        forms = self.number_formats
        return [{name: value_text(value, forms.get(name, "")) for name, value in row.items()} for row in rows]


def filled_columns(rows: Sequence[TableRow], hidden: Sequence[str] = ()) -> list[str]:
    """The columns in which any row has something, but for ``hidden`` ones."""
    return [name for name in rows[0] if name not in hidden and any(row[name] not in ("", None) for row in rows)]
