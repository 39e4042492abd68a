"""Rows of a data set by number, wherever they lie: in a memory-mapped table, in a jsonl beside its pictures.

Of a table only one row at a time is in memory. A jsonl has the same columns and names its pictures as files of its
folder.
"""

from __future__ import annotations

import io
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageOps

from nuwa.benchmarks.local import read_image, read_rows
from nuwa.samples import SampleError, to_rgb

if TYPE_CHECKING:
    from datasets import Dataset

BATCH = 1000  # rows read at once when a whole column is wanted


class Rows(ABC):
    """Rows by number. Text is read without its pictures, and pictures are decoded one row at a time."""

    source: str
    columns: list[str]
    folder: Path | None
    """Where pictures lie that a cell only names."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of rows."""

    @abstractmethod
    def text(self, index: int, columns: Sequence[str]) -> dict:
        """Some columns of one row as plain Python values.

        Raises:
            SampleError: the row cannot be read or lacks a column.
        """

    @abstractmethod
    def keys(self, columns: Sequence[str]) -> Iterator[dict]:
        """Some columns of every row in order; {} for a row that cannot be read. Meant for short columns, as ids."""

    def pictures(self, index: int, column: str) -> list[Image.Image]:
        """The pictures of one cell in RGB: one, several if it holds a list, or none if it is empty.

        Raises:
            SampleError: a picture cannot be read.
        """
        cell = self.text(index, (column,))[column]
        return [decode(one, self.folder) for one in _listed(cell)]


class ArrowRows(Rows):
    """A memory-mapped table."""

    def __init__(self, dataset: Dataset, source: str, folder: Path | None = None):
        self.table, self.source, self.folder = dataset.with_format("arrow"), source, folder
        self.columns = list(dataset.column_names)
        self._views: dict[tuple[str, ...], Dataset] = {}

    def __len__(self) -> int:
        return len(self.table)

    def text(self, index: int, columns: Sequence[str]) -> dict:
        return self._view(columns)[index].to_pylist()[0]

    def keys(self, columns: Sequence[str]) -> Iterator[dict]:
        for batch in self._view(columns).iter(BATCH):
            yield from batch.to_pylist()

    def _view(self, columns: Sequence[str]) -> Dataset:
        """The table with these columns alone, so that a row's pictures are not read for its text."""
        key = tuple(columns)
        if key not in self._views:
            self._views[key] = self.table.select_columns(list(columns))
        return self._views[key]


class JsonRows(Rows):
    """A jsonl with one object per line, or a .json that is a list of them; pictures are files below ``folder``."""

    def __init__(self, file: Path, folder: Path | None = None):
        self.rows = read_rows(file) if file.suffix == ".jsonl" else _listed_rows(file)
        self.source, self.folder = str(file), folder or file.parent
        self.columns = list(dict.fromkeys(str(column) for row in self.rows for column in row["content"]))

    def __len__(self) -> int:
        return len(self.rows)

    def text(self, index: int, columns: Sequence[str]) -> dict:
        row = self.rows[index]
        lacking = [column for column in columns if column not in row["content"]]
        if row["error"] or lacking:
            reason = row["error"] or f"lacks {', '.join(lacking)} (its columns: {', '.join(row['content'])})"
            raise SampleError(f"line {row['line']}: {reason}")
        return {column: row["content"][column] for column in columns}

    def keys(self, columns: Sequence[str]) -> Iterator[dict]:
        for row in self.rows:
            yield {column: row["content"].get(column) for column in columns} if row["content"] else {}


def decode(cell: object, folder: Path | None) -> Image.Image:
    """A picture as the hub stores it (``{"bytes", "path"}``) or as a file name below ``folder``, in RGB and upright."""
    content = cell.get("bytes") if isinstance(cell, Mapping) else None
    name = cell.get("path") if isinstance(cell, Mapping) else cell
    if content is None:
        if not isinstance(name, str) or not name or folder is None:
            raise SampleError(f"a picture must be its bytes or a file name, not {cell!r}")
        return read_image(folder, name)
    try:
        with Image.open(io.BytesIO(content)) as image:
            return to_rgb(ImageOps.exif_transpose(image))
    except Exception as error:  # decoders raise many kinds of errors on broken files
        raise SampleError(f"image {name or ''} cannot be read: {error}".replace("  ", " ")) from error


def _listed(cell: object) -> list:
    if cell is None:
        return []
    return cell if isinstance(cell, list) else [cell]


def _listed_rows(file: Path) -> list[dict]:
    """The objects of a JSON list, in the form of `read_rows`; ``line`` counts them from 1."""
    content = json.loads(file.read_text(encoding="utf-8-sig"))
    if not isinstance(content, list):
        raise ValueError(f"holds a JSON {type(content).__name__}, not a list of objects")
    return [
        {"line": number, "content": row, "error": ""}
        if isinstance(row, dict)
        else {"line": number, "content": {}, "error": f"is a JSON {type(row).__name__}, not an object"}
        for number, row in enumerate(content, start=1)
    ]
