"""A comparison with a printed table as rows of text: one row per printed row, or one per cell."""

from __future__ import annotations

from collections.abc import Sequence

from nuwa.report.paper.matching import DONE, FAILED, LIMITED, NO_RUN, PaperValue
from nuwa.report.paper.printed import SUMMARIES, PaperTable, PrintedRow
from nuwa.report.tables.formats import TableRow

PAPER_LEGEND = (
    "ours / paper / difference; ! outside its tolerance, ~ from a part of the samples, * see below (not judged)"
)
Line = tuple[PrintedRow, str]


def lines_of(cells: Sequence[PaperValue]) -> dict[Line, dict[str, PaperValue]]:
    """Cells by printed row and method here, then by column."""
    lines: dict[Line, dict[str, PaperValue]] = {}
    for cell in cells:
        lines.setdefault((cell.row, cell.pruner), {})[cell.benchmark.name] = cell
    return lines


def wide_rows(table: PaperTable, cells: Sequence[PaperValue]) -> list[TableRow]:
    """One row per printed row, the unpruned one first; ``retained`` over the benchmarks that ours has."""
    lines = lines_of(cells)
    columns = list(dict.fromkeys(cell.benchmark.name for cell in cells))
    rows = []
    for (row, pruner), own in lines.items():
        text: TableRow = {"method": label(row, pruner), "tokens": row.tokens}
        if len(table.models) > 1:
            text = {"model": row.model, **text}
        text |= {name: value_beside(own[name]) if name in own else "" for name in columns}
        rows.append(text | {"retained": retained_text(table, row, own, lines)})
    return rows


def label(row: PrintedRow, pruner: str) -> str:
    """The printed name and, where it is another, the name here."""
    return row.method if not pruner or pruner in (row.base, "none") else f"{row.method} ({pruner})"


def value_beside(cell: PaperValue) -> str:
    """``58.1 / 58.3 / -0.2`` and its marks, or the state in the place of ours."""
    digits = decimals(cell.printed)
    paper = f"{cell.printed:.{digits}f}{'*' if cell.note else ''}"
    if cell.ours is None:
        return f"{cell.state} / {paper}"
    mark = "!" if cell.outside else "~" if cell.state == LIMITED else ""
    return f"{cell.ours:.{digits}f} / {paper} / {cell.difference:+.{digits}f}{mark}"


def decimals(printed: float) -> int:
    """How many decimals of a printed number are worth showing."""
    fraction = f"{printed:.6f}".rstrip("0").partition(".")[2]
    return 0 if abs(printed) >= 1000 else min(max(len(fraction), 1), 2 if abs(printed) >= 1 else 4)


def retained(
    table: PaperTable, row: PrintedRow, own: dict[str, PaperValue], lines: dict[Line, dict[str, PaperValue]]
) -> tuple[float, float, int] | None:
    """Mean retention in percent, ours and the paper's, over the benchmarks that ours and its unpruned run have."""
    whole = table.unpruned.get(row.model)
    full = lines.get((whole, "none"), {}) if whole is not None else {}
    shares = []
    for name, cell in own.items():
        unpruned = full[name].ours if name in full else None
        if cell.benchmark.task and cell.ours is not None and unpruned:
            shares.append((100 * cell.ours / unpruned, 100 * cell.printed / full[name].printed))
    if not shares:
        return None
    ours, paper = (sum(values) / len(shares) for values in zip(*shares, strict=True))
    return ours, paper, len(shares)


def retained_text(
    table: PaperTable, row: PrintedRow, own: dict[str, PaperValue], lines: dict[Line, dict[str, PaperValue]]
) -> str:
    """``95.1 / 94.9 / +0.2 (3 columns)``, empty where there is no such mean."""
    found = retained(table, row, own, lines)
    return "" if found is None else f"{found[0]:.1f} / {found[1]:.1f} / {found[0] - found[1]:+.1f} ({found[2]} columns)"


def long_rows(table: PaperTable, cells: Sequence[PaperValue]) -> list[TableRow]:
    """One row per cell, with everything that is known of it."""
    return [
        {
            "table": table.name,
            "model": cell.row.model,
            "tokens": cell.row.tokens if cell.row.average is None else cell.row.average,
            "method": cell.row.method,
            "pruner": cell.pruner,
            "column": cell.benchmark.name,
            "ours": cell.ours,
            "error": cell.error,
            "paper": cell.printed,
            "difference": cell.difference,
            "tolerance": cell.benchmark.allowed(cell.printed) if cell.benchmark.known else None,
            "state": "outside" if cell.outside else cell.state,
            "reason": cell.reason or cell.note,
        }
        for cell in cells
    ]


def remarks(cells: Sequence[PaperValue]) -> list[str]:
    """A count of the cells, and by name those without a number, those outside, and those that are not judged."""
    counts = {state: sum(cell.state == state for cell in cells) for state in dict.fromkeys(c.state for c in cells)}
    judged, outside = sum(cell.judged for cell in cells), [cell for cell in cells if cell.outside]
    states = ", ".join(f"{count} {state}" for state, count in counts.items())
    found = [f"{len(cells)} printed cells: {states}; {judged} judged, {len(outside)} outside tolerance"]
    found += [
        f"outside: {_name(c)}: {c.difference:+.4g}, allowed {c.benchmark.allowed(c.printed):.4g}" for c in outside
    ]
    for state in counts:
        if state in (DONE, LIMITED):
            continue
        found += [f"{state}: {names}{f' ({why})' * (why != NO_RUN)}" for why, names in _grouped(cells, state)]
    return found + [f"* {_name(cell)}: {cell.note}" for cell in cells if cell.note]


def _grouped(cells: Sequence[PaperValue], state: str) -> list[tuple[str, str]]:
    """Reasons of a state and the cells that have it: the rows that lack the same columns, with these."""
    groups: dict[str, dict[Line, list[str]]] = {}
    for cell in cells:
        if cell.state == state:
            groups.setdefault(cell.reason, {}).setdefault((cell.row, cell.pruner), []).append(cell.benchmark.name)
    return [(reason, "; ".join(_sharing(lines))) for reason, lines in groups.items()]


def _sharing(lines: dict[Line, list[str]]) -> list[str]:
    """``nuwa 64, nuwa 128: gqa, mme``; a row's every column is ``all 9 columns``."""
    rows: dict[str, list[str]] = {}
    for (row, pruner), columns in lines.items():
        own = [name for name in row.cells if name not in SUMMARIES]
        text = f"all {len(own)} columns" if len(own) == len(columns) > 1 else ", ".join(columns)
        rows.setdefault(text, []).append(f"{label(row, pruner)} {row.tokens}")
    return [f"{', '.join(names)}: {text}" for text, names in rows.items()]


def _name(cell: PaperValue) -> str:
    return f"{label(cell.row, cell.pruner)} {cell.row.tokens} {cell.benchmark.name}"


def failed(cells: Sequence[PaperValue]) -> bool:
    """Whether a check of these cells fails: one is outside, a run of one failed, or none could be judged."""
    return any(c.outside or c.state == FAILED for c in cells) or not any(c.judged for c in cells)
