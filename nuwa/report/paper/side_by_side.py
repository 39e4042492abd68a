"""A comparison with a printed table as rows: one for each printed row, or one for each value."""

from __future__ import annotations

from collections.abc import Sequence

from nuwa.report.paper.matching import DONE, FAILED, LIMITED, NO_RUN, PaperValue
from nuwa.report.paper.printed import SUMMARIES, PaperTable, PrintedRow
from nuwa.report.tables.formats import TableRow

PAPER_LEGEND = (
    "ours / paper / difference; ! outside its tolerance, ~ from a part of the samples, * see below (not judged)"
)
Line = tuple[PrintedRow, str]


def _by_line(values: Sequence[PaperValue]) -> dict[Line, dict[str, PaperValue]]:
    """Cells by printed row and method here, then by column."""
    lines: dict[Line, dict[str, PaperValue]] = {}
    for value in values:
        lines.setdefault((value.row, value.pruner), {})[value.benchmark.name] = value
    return lines


def wide_rows(table: PaperTable, values: Sequence[PaperValue]) -> list[TableRow]:
    """One row per printed row, the unpruned one first; ``retained`` over the benchmarks that ours has."""
    lines = _by_line(values)
    columns = list(dict.fromkeys(value.benchmark.name for value in values))
    rows = []
    for (row, pruner), own in lines.items():
        text: TableRow = {"method": label(row, pruner), "tokens": row.tokens}
        if len(table.models) > 1:
            text = {"model": row.model, **text}
        text |= {name: value_beside(own[name]) if name in own else "" for name in columns}
        whole = table.unpruned.get(row.model)
        rows.append(text | {"retained": _retained_text(own, lines.get((whole, "none"), {}) if whole else {})})
    return rows


def label(row: PrintedRow, pruner: str) -> str:
    """The printed name and, where it is another, the name here."""
    return row.method if not pruner or pruner in (row.base, "none") else f"{row.method} ({pruner})"


def value_beside(value: PaperValue) -> str:
    """``58.1 / 58.3 / -0.2`` and its marks, or the state in the place of ours."""
    digits = _decimals(value.printed)
    paper = f"{value.printed:.{digits}f}{'*' if value.note else ''}"
    if value.ours is None:
        return f"{value.state} / {paper}"
    mark = "!" if value.outside else "~" if value.state == LIMITED else ""
    return f"{value.ours:.{digits}f} / {paper} / {value.difference:+.{digits}f}{mark}"


def _decimals(printed: float) -> int:
    """How many decimals of a printed number are worth showing."""
    fraction = f"{printed:.6f}".rstrip("0").partition(".")[2]
    return 0 if abs(printed) >= 1000 else min(max(len(fraction), 1), 2 if abs(printed) >= 1 else 4)


def _retained_text(own: dict[str, PaperValue], unpruned: dict[str, PaperValue]) -> str:
    """``95.1 / 94.9 / +0.2 (3 columns)``: mean retention in percent, ours and the paper's.

    Over the benchmarks that ours and its unpruned run have; empty where there are none.
    """
    pairs = [(value, unpruned[name]) for name, value in own.items() if name in unpruned and value.benchmark.task]
    shares = [
        (100 * value.ours / whole.ours, 100 * value.printed / whole.printed)
        for value, whole in pairs
        if value.ours is not None and whole.ours
    ]
    if not shares:
        return ""
    ours, paper = (sum(column) / len(shares) for column in zip(*shares, strict=True))
    return f"{ours:.1f} / {paper:.1f} / {ours - paper:+.1f} ({len(shares)} columns)"


def long_rows(table: PaperTable, values: Sequence[PaperValue]) -> list[TableRow]:
    """One row per value, with everything that is known of it."""
    return [
        {
            "table": table.name,
            "model": value.row.model,
            "tokens": value.row.tokens if value.row.average is None else value.row.average,
            "method": value.row.method,
            "pruner": value.pruner,
            "column": value.benchmark.name,
            "ours": value.ours,
            "error": value.error,
            "paper": value.printed,
            "difference": value.difference,
            "tolerance": value.benchmark.allowed(value.printed) if value.benchmark.known else None,
            "state": "outside" if value.outside else value.state,
            "reason": value.reason or value.note,
        }
        for value in values
    ]


def remarks(values: Sequence[PaperValue]) -> list[str]:
    """A count of the values, and by name those without a number, those outside, and those that are not judged."""
    counts = {state: sum(value.state == state for value in values) for state in dict.fromkeys(c.state for c in values)}
    judged, outside = sum(value.judged for value in values), [value for value in values if value.outside]
    states = ", ".join(f"{count} {state}" for state, count in counts.items())
    found = [f"{len(values)} printed cells: {states}; {judged} judged, {len(outside)} outside tolerance"]
    found += [
        f"outside: {_name(c)}: {c.difference:+.4g}, allowed {c.benchmark.allowed(c.printed):.4g}" for c in outside
    ]
    for state in (state for state in counts if state not in (DONE, LIMITED)):
        found += [f"{state}: {names}{f' ({why})' * (why != NO_RUN)}" for why, names in _grouped(values, state)]
    return found + [f"* {_name(value)}: {value.note}" for value in values if value.note]


def _grouped(values: Sequence[PaperValue], state: str) -> list[tuple[str, str]]:
    """Reasons of a state and the values that have it: the rows that lack the same columns, with these."""
    groups: dict[str, dict[Line, list[str]]] = {}
    for value in values:
        if value.state == state:
            groups.setdefault(value.reason, {}).setdefault((value.row, value.pruner), []).append(value.benchmark.name)
    return [(reason, "; ".join(_sharing(lines))) for reason, lines in groups.items()]


def _sharing(lines: dict[Line, list[str]]) -> list[str]:
    """``nuwa 64, nuwa 128: gqa, mme``; a row's every column is ``all 9 columns``."""
    rows: dict[str, list[str]] = {}
    for (row, pruner), columns in lines.items():
        own = [name for name in row.cells if name not in SUMMARIES]
        text = f"all {len(own)} columns" if len(own) == len(columns) > 1 else ", ".join(columns)
        rows.setdefault(text, []).append(f"{label(row, pruner)} {row.tokens}")
    return [f"{', '.join(names)}: {text}" for text, names in rows.items()]


def _name(value: PaperValue) -> str:
    return f"{label(value.row, value.pruner)} {value.row.tokens} {value.benchmark.name}"


def failed(values: Sequence[PaperValue]) -> bool:
    """Whether a check of these values fails: one is outside, a run of one failed, or none could be judged."""
    return any(c.outside or c.state == FAILED for c in values) or not any(c.judged for c in values)
