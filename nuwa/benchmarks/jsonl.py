"""Rows of a jsonl, or of a JSON list, each with its place and with what is wrong with it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nuwa.benchmarks.column_checks import wording
from nuwa.samples import spelt_out


@dataclass
class JsonRow:
    """One object of a file; ``line`` counts from 1, ``error`` says why there is no ``content``."""

    line: int
    id: str
    content: dict[str, Any]
    error: str = ""


def read_jsonl(file: Path) -> list[JsonRow]:
    """Every line that is not blank; one that holds no object keeps its place and says why.

    Raises:
        OSError: the file cannot be read.
    """
    rows = []
    for number, raw in enumerate(file.read_bytes().splitlines(), start=1):
        if not raw.strip():
            continue
        try:
            rows.append(_row(file, number, json.loads(raw.decode("utf-8-sig"))))
        except ValueError as problem:
            rows.append(_row(file, number, {}, f"is not valid JSON: {problem}"))
        except RecursionError:
            rows.append(_row(file, number, {}, "is nested too deeply"))
    return rows


def read_json_list(file: Path) -> list[JsonRow]:
    """The objects of a JSON list.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not valid JSON, or no list.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8-sig"))
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error
    if not isinstance(values, list):
        raise ValueError(f"holds a JSON {type(values).__name__}, not a list of objects")
    return [_row(file, number, value) for number, value in enumerate(values, start=1)]


def _row(file: Path, number: int, value: object, error: str = "") -> JsonRow:
    """A row's own id, or else one of the file and the place."""
    content = value if isinstance(value, dict) else {}
    if not isinstance(value, dict):
        error = f"is a JSON {type(value).__name__}, not an object"
    name = content.get("id")
    return JsonRow(number, f"{file.stem}-{number}" if name is None else spelt_out(wording(name)), content, error)
