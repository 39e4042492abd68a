"""The papers' printed numbers, from experiments/expected: one CSV per table, and what its names mean here."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from nuwa.evaluation.choices import known_method

EXPECTED = Path(__file__).resolve().parents[3] / "experiments" / "expected"
UNPRUNED = "vanilla"
SUMMARIES = ("retention_avg", "score_avg")
"""Printed columns that are computed from the others."""
OPTION_NAMES = {"random_stage2": "random"}
SWITCHES = {"0": False, "1": True}  # of options that are bool here


@dataclass(frozen=True)
class PrintedBenchmark:
    """A printed column, which of our numbers belong beside it, and how far they may be off.

    ``runs`` maps a data set (``name`` or ``name:split``) to a metric. ``result`` names a cost that every run has,
    ``speed`` a time that a probed run has; times are shown and not judged. Our numbers times ``scale`` are in the
    printed unit, which is that of ``tolerance``.
    """

    name: str
    task: str = ""
    runs: Mapping[str, str] = field(default_factory=dict)
    result: str = ""
    speed: str = ""
    scale: float = 1.0
    tolerance: float = 0.0
    tolerance_percent: float = 0.0

    @property
    def known(self) -> bool:
        """Whether runs here can have such a number."""
        return bool(self.runs or self.result or self.speed)

    def allowed(self, printed: float) -> float:
        """How far a number may be from the printed one."""
        return max(self.tolerance, self.tolerance_percent / 100 * abs(printed))


@dataclass(frozen=True)
class PrintedRow:
    """One row of a printed table: what was run, and its numbers by column."""

    model: str
    tokens: str
    method: str
    cells: Mapping[str, float] = field(hash=False)

    @property
    def base(self) -> str:
        """The method without position strategy and options."""
        return re.split(r"[+:]", self.method)[0]

    @property
    def pruners(self) -> tuple[str, ...]:
        """The methods of conf/pruner that the row is about; none if it has no counterpart."""
        names = _yaml("methods").get(self.base, [self.base])
        return tuple(name for name in names if known_method(name))

    @property
    def position(self) -> str:
        """``rpme`` where the row asks for it, otherwise ``native``."""
        return "rpme" if self.method.endswith("+rpme") else "native"

    @property
    def options(self) -> dict[str, Any]:
        """Options of the method that the row's name gives."""
        _, _, given = self.method.partition(":")
        pairs = [pair.partition("=") for pair in given.split(",") if "=" in pair]
        return {OPTION_NAMES.get(key, key): SWITCHES.get(value, value) for key, _, value in pairs}

    @property
    def blocking(self) -> tuple[str, str] | None:
        """Whose attention to the image is cut, in which of 32 layers (``block:text_to_vision:8-15``), or None."""
        kind, _, rest = self.method.partition(":")
        source, _, layers = rest.partition("_to_vision:")
        return (source, layers) if kind == "block" and layers != "none" else None

    @property
    def average(self) -> float | None:
        """The budget in tokens; None where it is printed as a share."""
        return None if self.tokens.endswith("%") else float(self.tokens)

    def share(self, whole: PrintedRow) -> float:
        """The budget as a share of the unpruned row's tokens."""
        if self.average is None:
            return float(self.tokens[:-1]) / 100
        if whole.average is None:
            unpruned = f"{whole.model}: the unpruned row has {whole.tokens}"
            raise ValueError(f"{unpruned}, {self.method} {self.tokens} tokens")
        return self.average / whole.average


@dataclass(frozen=True)
class PaperTable:
    """A printed table; ``unpruned`` is its row without pruning for each model."""

    name: str
    title: str
    source: str
    columns: tuple[str, ...]
    rows: tuple[PrintedRow, ...]
    unpruned: Mapping[str, PrintedRow]
    retention: str = ""
    notes: tuple[Mapping[str, str], ...] = ()

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models whose numbers the table has."""
        return tuple(dict.fromkeys(row.model for row in self.rows))

    def note(self, row: PrintedRow, column: str) -> str:
        """What a printed number really is, where that is not what its row says."""
        asked = {"model": row.model, "tokens": row.tokens, "method": row.method, "benchmark": column}
        found = (note["note"] for note in self.notes if all(note.get(key, asked[key]) == asked[key] for key in asked))
        return next(found, "")


def table_names() -> list[str]:
    """All tables, in the papers' order."""
    return list(_yaml("tables"))


@lru_cache
def load_table(name: str) -> PaperTable:
    """A printed table, its unpruned rows first.

    Raises:
        ValueError: there is no such table.
    """
    tables = _yaml("tables")
    if name not in tables:
        raise ValueError(f"--expected {name}: no such table; there are {', '.join(tables)}")
    facts = dict(tables[name])
    columns, rows = _read(name)
    elsewhere = [row for other in facts.pop("unpruned", ()) for row in _read(other)[1]]
    unpruned: dict[str, PrintedRow] = {}
    for row in [*rows, *elsewhere]:
        if row.base == UNPRUNED and row.model in {own.model for own in rows}:
            known = unpruned[row.model].cells if row.model in unpruned else {}
            cells = {column: value for column, value in row.cells.items() if column in columns}
            unpruned[row.model] = PrintedRow(row.model, row.tokens, row.method, {**cells, **known})
    ordered = (*unpruned.values(), *(row for row in rows if row.base != UNPRUNED))
    notes = tuple(facts.pop("notes", ()))
    return PaperTable(name, columns=columns, rows=ordered, unpruned=unpruned, notes=notes, **facts)


def printed_benchmark(name: str) -> PrintedBenchmark:
    """The description of a printed column; a column that nothing here measures has a name alone."""
    return PrintedBenchmark(name, **_yaml("benchmarks").get(name, {}))


def _read(name: str) -> tuple[tuple[str, ...], list[PrintedRow]]:
    with (EXPECTED / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        lines = csv.DictReader(file)
        columns = tuple(column for column in lines.fieldnames or () if column not in ("model", "tokens", "method"))
        rows = []
        for line in lines:
            cells = {column: float(line[column]) for column in columns if line[column]}
            rows.append(PrintedRow(line["model"], line["tokens"], line["method"], cells))
    return columns, rows


def mean_share(row: PrintedRow, whole: PrintedRow, columns: Sequence[str]) -> float | None:
    """Mean of value / unpruned value over the columns that both rows have, in percent; None if there is none."""
    shares = [row.cells[name] / whole.cells[name] for name in columns if name in row.cells and name in whole.cells]
    return 100 * sum(shares) / len(shares) if shares else None


@lru_cache
def _yaml(name: str) -> dict[str, Any]:
    path = EXPECTED / f"{name}.yaml"
    if not path.is_file():
        raise ValueError(f"{path} is missing: the printed numbers are part of a clone, not of the wheel")
    return yaml.safe_load(path.read_text(encoding="utf-8"))
