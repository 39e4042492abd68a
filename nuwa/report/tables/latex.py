"""Tables for papers: booktabs' rules, numbers aligned by siunitx (version 3), the best of each group in bold."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import groupby

from nuwa.command import plain_text
from nuwa.report.tables.formats import TextRow

ESCAPES = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"}
ESCAPES |= {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}
ESCAPES |= {sign: f"{{{sign}}}" for sign in "[*"}  # which the end of the line before would take for its option
ESCAPES |= {sign: f"\\{sign}" for sign in "&%$#_{}"}
_PACKAGES = r"% needs \usepackage{booktabs, siunitx} and \sisetup{separate-uncertainty, text-series-to-math}"
_MANY = 8  # columns that fit as they are
_NUMBER = re.compile(r"(-?)(\d+)(?:\.(\d+))?(?: ±(\d+)(?:\.(\d+))?)?")


def latex_text(
    rows: Sequence[TextRow],
    columns: Sequence[str],
    notes: Sequence[str] = (),
    title: str = "",
    group: str = "",
    ranked: Sequence[str] = (),
) -> str:
    """A table: caption above, label, the notes as comments below.

    Columns of numbers (``81.5`` or ``81.5 ±1.2``) are siunitx's. Neighbouring rows of one value of ``group`` stand
    below it as their heading; in each group and ``ranked`` column the largest number is bold, the second underlined.
    """
    shown = [name for name in columns if name != group]
    forms = {name: form for name in shown if (form := _number_format([row[name] for row in rows]))}
    layout = "".join(f"S[table-format={forms[name]}]" if name in forms else "l" for name in shown)
    head = " & ".join(_heading(name) for name in shown)
    parts = [_PACKAGES, r"\begin{table}", r"\centering\small"]
    parts += [r"\setlength{\tabcolsep}{3pt}"] if len(shown) > _MANY else []
    parts += [f"\\caption{{{escaped(title)}}}", f"\\label{{tab:{_key(title)}}}"]
    parts += [f"\\begin{{tabular}}{{{layout}}}", r"\toprule", f"{head} \\\\"]
    for heading, members in groupby(rows, key=lambda row: row[group] if group else ""):
        own = list(members)
        parts.append(r"\midrule")
        if heading:
            parts.append(f"\\multicolumn{{{len(shown)}}}{{l}}{{\\emph{{{escaped(heading)}}}}} \\\\")
        marks = {name: _ranks([row[name] for row in own]) for name in ranked if name in forms}
        parts += [f"{' & '.join(_cells(row, shown, forms, marks))} \\\\" for row in own]
    parts += [r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    return "\n".join([*parts, *(f"% {plain_text(note)}".replace("\n", " ") for note in notes)])


def escaped(text: str) -> str:
    """Text in which TeX finds no command."""
    return "".join(ESCAPES.get(sign, sign) for sign in plain_text(text).replace("\n", " "))


def _heading(name: str) -> str:
    """A column's name, in braces, or siunitx takes it for a number; each part between commas has a line of its own."""
    lines = r" \\ ".join(escaped(part) for part in name.split(", "))
    return f"{{\\shortstack{{{lines}}}}}" if "," in name else f"{{{lines}}}"


def _cells(
    row: TextRow, columns: Sequence[str], forms: Mapping[str, str], marks: Mapping[str, Sequence[float]]
) -> list[str]:
    return [_number(row[name], marks.get(name, ())) if name in forms else escaped(row[name]) for name in columns]


def _number(text: str, ranks: Sequence[float]) -> str:
    """A number as siunitx reads it, marked if it is the first or second of ``ranks``."""
    number, value = text.replace("±", r"\pm "), _value(text) if text else None
    if value in ranks[:1]:
        return f"\\bfseries {number}"
    return f"{{\\underline{{\\num{{{number}}}}}}}" if value in ranks[1:2] else number


def _ranks(texts: Sequence[str]) -> list[float]:
    """Different numbers, the largest first; none where there is nothing to compare."""
    values = {_value(text) for text in texts if text}
    return sorted(values, reverse=True) if len(values) > 1 else []


def _value(text: str) -> float:
    """The number without its error."""
    return float(text.split(" ")[0])


def _number_format(texts: Sequence[str]) -> str:
    """siunitx's ``table-format`` of a column, e.g. ``2.1(2)``; empty if not all texts are numbers, or none is."""
    found = [_NUMBER.fullmatch(text) for text in texts if text]
    parts = [match.groups(default="") for match in found if match]
    if not parts or len(parts) < len(found):
        return ""
    sign, whole, decimals = (max(len(part[place]) for part in parts) for place in range(3))
    error = max(len((part[3] + part[4]).lstrip("0")) for part in parts)
    return f"{'-' * sign}{whole}" + f".{decimals}" * bool(decimals) + f"({error})" * bool(error)


def _key(title: str) -> str:
    """A label of letters and digits."""
    return re.sub(r"[^a-z0-9]+", "-", title.partition(":")[0].lower()).strip("-")
