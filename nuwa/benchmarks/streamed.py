"""Rows of parquet files that are read where they lie, on the hub or on disk: nothing is copied or converted first.

A parquet file is a chain of row groups (on the hub mostly of 100 rows with their pictures), each of which can be read
alone, and of each only some columns. So ids are read without pictures, a limited run reads the groups of its samples,
and a resumed one skips the groups that it has answered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nuwa.benchmarks.base import BenchmarkError, SourceError
from nuwa.benchmarks.rows import Rows
from nuwa.samples import SampleError

if TYPE_CHECKING:
    from pyarrow import Table
    from pyarrow.parquet import FileMetaData, ParquetFile

READERS = 16  # files whose ids are asked for at once
RECENT = 8
"""Pieces of row groups in memory: text and pictures of four rotations of a question, which lie far apart in MMBench."""


class ParquetRows(Rows):
    """Rows of parquet files, one row group at a time.

    Every process reads for itself, and worker processes take turns at samples, so each of them reads all groups: with
    several workers (``trainer.num_workers``) the data is read that many times.

    Args:
        files: paths, or addresses that ``fsspec`` knows (``hf://datasets/...``).
        source: their name in messages.
        folder: where pictures lie that a cell only names.

    Raises:
        BenchmarkError: a file is missing or not whole.
    """

    def __init__(self, files: Sequence[str], source: str, folder: Path | None = None):
        self.files, self.source, self.folder = list(files), source, folder
        self._metadata: list[FileMetaData | None] = [None] * len(self.files)
        self._metadata = self._from_all(lambda file: file.metadata)
        self._groups = [(i, group) for i, data in enumerate(self._metadata) for group in range(data.num_row_groups)]
        sizes = [self._metadata[i].row_group(group).num_rows for i, group in self._groups]
        self._starts = np.cumsum([0, *sizes], dtype=np.int64)
        names = [data.schema.to_arrow_schema().names for data in self._metadata]
        self.columns = [name for name in names[0] if all(name in others for others in names)]
        self._recent: dict[tuple, Table] = {}

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_recent": {}}

    def text(self, index: int, columns: Sequence[str]) -> dict:
        place = int(np.searchsorted(self._starts, index, side="right")) - 1
        table = self._piece(place, tuple(columns))
        return table.slice(index - int(self._starts[place]), 1).to_pylist()[0]

    def keys(self, columns: Sequence[str]) -> Iterator[dict]:
        for rows in self._from_all(lambda file: _keys_in(file, list(columns))):
            yield from rows

    def _piece(self, place: int, columns: tuple[str, ...]) -> Table:
        """Some columns of a row group; the last few are kept."""
        key = (place, columns)
        table = self._recent.pop(key, None)
        self._recent[key] = self._read(place, columns) if table is None else table
        if len(self._recent) > RECENT:
            del self._recent[next(iter(self._recent))]
        return self._recent[key]

    def _read(self, place: int, columns: tuple[str, ...]) -> Table:
        """Some columns of a row group from its file.

        Raises:
            SampleError: it is damaged.
            SourceError: it cannot be reached.
        """
        file, group = self._groups[place]
        try:
            with _opened(self.files[file]) as content:
                return _parquet(content, self._metadata[file]).read_row_group(group, columns=list(columns))
        except Exception as error:
            what = f"row group {group} of {self.files[file]} cannot be read: {error}"
            raise (SampleError if _is_damage(error) else SourceError)(what) from error

    def _from_all(self, wanted: Callable[[ParquetFile], Any]) -> list[Any]:
        """What ``wanted`` returns for each file, in order."""

        def one(name: str, metadata: FileMetaData | None) -> Any:
            try:
                with _opened(name) as content:
                    return wanted(_parquet(content, metadata))
            except Exception as error:  # networks fail in many ways
                raise BenchmarkError(f"{name} is not a whole parquet file, or cannot be reached: {error}") from error

        with ThreadPoolExecutor(READERS) as readers:
            return list(readers.map(one, self.files, self._metadata))


def _keys_in(file: ParquetFile, columns: list[str]) -> list[dict]:
    """Some columns of every row of a file; {} for the rows of a damaged row group."""
    try:
        return file.read(columns=columns).to_pylist()
    except Exception as error:
        if not _is_damage(error):
            raise
    rows: list[dict] = []
    for group in range(file.num_row_groups):
        try:
            rows += file.read_row_group(group, columns=columns).to_pylist()
        except Exception as error:
            if not _is_damage(error):
                raise
            rows += [{}] * file.metadata.row_group(group).num_rows
    return rows


def _is_damage(error: Exception) -> bool:
    """Whether content is broken, which Arrow says by errors of its own or a bare OSError; networks say otherwise."""
    from pyarrow import ArrowException

    return isinstance(error, ArrowException) or (type(error) is OSError and error.errno is None)


def _opened(name: str) -> Any:
    """A file for reads of exactly what is asked for."""
    from fsspec.core import url_to_fs

    system, path = url_to_fs(name)
    return system.open(path, "rb", cache_type="none")


def _parquet(content: Any, metadata: FileMetaData | None) -> ParquetFile:
    """A parquet file whose columns are asked for together, not one after the other."""
    from pyarrow.parquet import ParquetFile

    return ParquetFile(content, metadata=metadata, pre_buffer=True)
