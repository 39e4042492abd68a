"""Rows as a table: for a terminal, Markdown, LaTeX, CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence

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
LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"}
LATEX |= {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}
LATEX |= {sign: f"\\{sign}" for sign in "&%$#_{}"}


def value_text(value: CellValue, form: str = "") -> str:
    """A value as text: numbers by a format, fractions otherwise with six digits; None is empty.

    >>> value_text(576, ".1f"), value_text(280.0), value_text(None), value_text("nuwa")
    ('576.0', '280', '', 'nuwa')
    """
    if value is None or isinstance(value, str):
        return plain_text(value or "")
    return format(value, form or ("g" if isinstance(value, float) else ""))


def print_text(rows: Sequence[TextRow], columns: Sequence[str], title: str, notes: Sequence[str] = ()) -> None:
    """Print a table on the terminal, the notes below it."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=LOG_WIDTH)
    table = Table(title=Text(plain_text(title)), title_justify="left")
    for name in columns:
        table.add_column(Text(plain_text(name)), overflow="fold")
    for row in rows:
        table.add_row(*(Text(row[name]) for name in columns))  # Text: brackets are not markup
    console.print(table)
    for note in notes:
        console.print(Text(plain_text(note)), soft_wrap=True)


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


def latex_text(rows: Sequence[TextRow], columns: Sequence[str], notes: Sequence[str] = ()) -> str:
    """A tabular with booktabs rules, the notes as comments below it."""
    lines = [" & ".join(map(_escaped, columns)), *(" & ".join(_escaped(row[name]) for name in columns) for row in rows)]
    head, *body = (f"{line} \\\\" for line in lines)
    parts = [f"\\begin{{tabular}}{{{'l' * len(columns)}}}", "\\toprule", head, "\\midrule", *body, "\\bottomrule"]
    return "\n".join([*parts, "\\end{tabular}", *(f"% {plain_text(note)}".replace("\n", " ") for note in notes)])


def _escaped(text: str) -> str:
    return "".join(LATEX.get(sign, sign) for sign in plain_text(text).replace("\n", " "))


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
