"""Rows of a data set by number, wherever they lie: in a memory-mapped table, or in a jsonl beside its pictures.

Of a table only one row at a time is in memory. A jsonl has the same columns and names its pictures as files of its
folder.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from nuwa.benchmarks.images import stored_image
from nuwa.benchmarks.jsonl import read_json_list, read_jsonl
from nuwa.samples import SampleError

if TYPE_CHECKING:
    from datasets import Dataset

_BATCH = 1000  # rows read at once when a whole column is wanted


class Rows(ABC):
    """Rows by number. Text is read without its pictures, and pictures are decoded one row at a time."""

    source: str
    columns: list[str]
    folder: Path | None
    """Where pictures lie that a value only names."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of rows."""

    @abstractmethod
    def text(self, index: int, columns: Sequence[str]) -> dict[str, Any]:
        """Some columns of one row as plain Python values.

        Raises:
            SampleError: the row cannot be read or lacks a column.
        """

    @abstractmethod
    def keys(self, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Some columns of every row in order; {} for a row that cannot be read. Meant for short columns, as ids."""

    def pictures(self, index: int, column: str) -> list[Image.Image]:
        """The pictures in one column of a row, in RGB: one, several where it holds a list, none where it is empty.

        Raises:
            SampleError: a picture cannot be read.
        """
        value = self.text(index, (column,))[column]
        values = value if isinstance(value, list) else [] if value is None else [value]
        return [stored_image(one, self.folder) for one in values]


class ArrowRows(Rows):
    """A memory-mapped table."""

    def __init__(self, dataset: Dataset, source: str, folder: Path | None = None):
        self.table, self.source, self.folder = dataset.with_format("arrow"), source, folder
        self.columns = list(dataset.column_names)
        self._views: dict[tuple[str, ...], Dataset] = {}

    def __len__(self) -> int:
        return len(self.table)

    def text(self, index: int, columns: Sequence[str]) -> dict[str, Any]:
        return self._view(columns)[index].to_pylist()[0]

    def keys(self, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        for batch in self._view(columns).iter(_BATCH):
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
        self.rows = read_jsonl(file) if file.suffix == ".jsonl" else read_json_list(file)
        if self.rows and all(row.error for row in self.rows):
            raise ValueError(f"line {self.rows[0].line} {self.rows[0].error}")
        self.source, self.folder = str(file), folder or file.parent
        self.columns = list(dict.fromkeys(str(column) for row in self.rows for column in row.content))

    def __len__(self) -> int:
        return len(self.rows)

    def text(self, index: int, columns: Sequence[str]) -> dict[str, Any]:
        row = self.rows[index]
        lacking = [column for column in columns if column not in row.content]
        if row.error or lacking:
            reason = row.error or f"lacks {', '.join(lacking)} (its columns: {', '.join(row.content)})"
            raise SampleError(f"line {row.line}: {reason}")
        return {column: row.content[column] for column in columns}

    def keys(self, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        for row in self.rows:
            yield {column: row.content.get(column) for column in columns} if row.content else {}


class JoinedRows(Rows):
    """Several tables in turns, the first rows of all first; the columns ``part`` and ``place`` say whose row it is."""

    OWN = ("part", "place")

    def __init__(self, parts: Mapping[str, Rows]):
        self.parts, self.folder = dict(parts), None
        self.source = ", ".join(dict.fromkeys(rows.source for rows in parts.values()))
        shared = set.intersection(*(set(rows.columns) for rows in parts.values()))
        self.columns = [*sorted(shared), *self.OWN]
        longest = max(map(len, parts.values()))
        self._order = [(part, place) for place in range(longest) for part, rows in parts.items() if place < len(rows)]

    def __len__(self) -> int:
        return len(self._order)

    def text(self, index: int, columns: Sequence[str]) -> dict[str, Any]:
        part, place = self._order[index]
        return self.parts[part].text(place, self._stored(columns)) | {"part": part, "place": place}

    def keys(self, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        stored = self._stored(columns)
        read = {part: rows.keys(stored) for part, rows in self.parts.items()}
        for part, place in self._order:
            yield next(read[part]) | {"part": part, "place": place}

    def _stored(self, columns: Sequence[str]) -> list[str]:
        return [column for column in columns if column not in self.OWN]
