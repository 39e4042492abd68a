"""Rows as a table: for a terminal, Markdown, CSV; for papers, `nuwa.report.tables.latex`."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nuwa.command import plain_text

CellValue = str | int | float | None
TableRow = dict[str, CellValue]
"""A row by column, before numbers become text."""
TextRow = dict[str, str]
LOG_WIDTH = 160  # a log file has room
_NUMBERS = re.compile(r"[-+]?\d[-+\d.e ±,%\[\]]*")
WIDEST = 40  # characters before a cell is folded


def value_text(value: CellValue, form: str = "") -> str:
    """A value as text: numbers by a format, fractions otherwise with six digits; None is empty.

    >>> value_text(576, ".1f"), value_text(280.0), value_text(None), value_text("nuwa")
    ('576.0', '280', '', 'nuwa')
    """
    if value is None or isinstance(value, str):
        return plain_text(value or "")
    return format(value, form or ("g" if isinstance(value, float) else ""))


def print_text(
    rows: Sequence[TextRow], columns: Sequence[str], title: str, notes: Sequence[str] = (), keys: int = 1
) -> None:
    """Print a table on the terminal, the notes below it.

    What is too wide comes as several tables one below the other, each with the first ``keys`` columns.
    """
    console = Console()
    if not console.is_terminal:
        console = Console(width=LOG_WIDTH)
    widths = {name: _width(name, [row[name] for row in rows]) for name in columns}
    for number, shown in enumerate(column_blocks(widths, keys, console.width)):
        table = Table(title=Text(plain_text(title)) if number == 0 else None, title_justify="left")
        fits = sum(widths[name] for name in shown) < console.width
        for name in shown:
            table.add_column(Text(plain_text(name)), overflow="fold", width=widths[name] - 3 if fits else None)
        for row in rows:
            table.add_row(*(Text(row[name]) for name in shown))  # Text: brackets are not markup
        console.print(table)
    for note in notes:
        console.print(Text(plain_text(note)), soft_wrap=True)


def column_blocks(widths: Mapping[str, int], keys: int, width: int) -> list[list[str]]:
    """Columns of so many characters in portions that fit into ``width``, each with the first ``keys`` of them.

    >>> column_blocks({"method": 9, "tokens": 9, "score": 9, "n": 4}, 1, 20)
    [['method', 'tokens'], ['method', 'score'], ['method', 'n']]
    """
    first, rest = list(widths)[:keys], list(widths)[keys:]
    room = width - 1 - sum(widths[name] for name in first)
    portions, left = [first], room
    for name in rest:
        if widths[name] > left and len(portions[-1]) > keys:
            portions, left = [*portions, first], room
        portions[-1] = [*portions[-1], name]
        left -= widths[name]
    return portions


def _width(name: str, cells: Sequence[str]) -> int:
    """The characters of a column with its margins and a border; a heading may break between its words."""
    longest = max(map(cell_len, [*name.split(), *(line for cell in cells for line in cell.split("\n"))]), default=0)
    return min(longest, WIDEST) + 3


def markdown_text(rows: Sequence[TextRow], columns: Sequence[str], notes: Sequence[str] = ()) -> str:
    r"""GitHub's Markdown, each note a paragraph below the table.

    >>> print(markdown_text([{"method": "nuwa", "note": "a|b"}], ["method", "note"]))
    | method | note |
    | --- | --- |
    | nuwa | a\|b |
    """
    cells = [list(columns), *([row[name] for name in columns] for row in rows)]
    head, *body = ([_one_line(text).replace("|", "\\|") for text in line] for line in cells)
    lines = [head, ["---"] * len(columns), *body]
    return "\n".join(["| " + " | ".join(line) + " |" for line in lines] + [f"\n{_one_line(note)}" for note in notes])


def _one_line(text: str) -> str:
    """Text that no page takes for HTML."""
    return plain_text(text).replace("&", "&amp;").replace("<", "&lt;").replace("\n", " ")


def csv_text(rows: Sequence[TextRow]) -> str:
    """Comma-separated values of every column of the first row. A text that a spreadsheet would compute is quoted.

    >>> print(csv_text([{"method": "nuwa", "n": "100"}]))
    method,n
    nuwa,100
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _no_formula(cell) for name, cell in row.items()} for row in rows)
    return text.getvalue().rstrip("\n")


def _no_formula(cell: str) -> str:
    """A cell that is text to a spreadsheet, too; numbers stay numbers."""
    return f"'{cell}" if cell.startswith(tuple("=+-@\t\r")) and not _NUMBERS.fullmatch(cell) else cell
