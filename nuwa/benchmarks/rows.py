"""Where the rows of a data set come from: the Hugging Face hub, or a local folder with the same columns.

Parquet, local or from the hub, goes through the ``datasets`` library into memory-mapped Arrow tables, of which only one
row at a time is in memory. A jsonl has the same columns and names its pictures as files of its folder.
"""

from __future__ import annotations

import io
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageOps

from nuwa.benchmarks.base import BenchmarkError, SampleError, to_rgb
from nuwa.benchmarks.local import read_image, read_rows

if TYPE_CHECKING:
    from datasets import Dataset

BATCH = 1000  # rows read at once when a whole column is wanted


class Rows(ABC):
    """Rows by number. Text is read without its pictures, and pictures are decoded one row at a time."""

    source: str
    columns: list[str]

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

    @abstractmethod
    def pictures(self, index: int, column: str) -> list[Image.Image]:
        """The pictures of one cell in RGB: one, several if it holds a list, or none if it is empty.

        Raises:
            SampleError: a picture cannot be read.
        """


class ArrowRows(Rows):
    """A memory-mapped table; ``folder`` is where pictures lie that a cell only names."""

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

    def pictures(self, index: int, column: str) -> list[Image.Image]:
        cell = self.text(index, (column,))[column]
        return [decode(one, self.folder) for one in _listed(cell)]

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

    def pictures(self, index: int, column: str) -> list[Image.Image]:
        cell = self.text(index, (column,))[column]
        return [decode(one, self.folder) for one in _listed(cell)]


def load_rows(
    hub: Sequence[str],
    config: str | None,
    split: str,
    revision: str | None = None,
    path: str | None = None,
    images: str | None = None,
) -> Rows:
    """Rows of ``path`` if it is given, otherwise of the first id in ``hub`` that can be had.

    Args:
        hub: names of one data set on the hub, which may have moved from one to the other.
        config, split, revision: as the hub calls them; ``config`` may be a folder below ``path``.
        path: a parquet, jsonl or json file, or a folder of them in the hub's layout.
        images: folder of the pictures that rows name, where it is not the file's own.

    Raises:
        BenchmarkError: nothing to load, or it cannot be read.
    """
    if path is None:
        return _from_hub(hub, config, split, revision)
    files = find_files(path, config, split)
    folder = Path(images).expanduser() if images else files[0].parent
    if not folder.is_dir():
        raise BenchmarkError(f"dataset.images_folder={images}: there is no such folder")
    if files[0].suffix == ".parquet":
        return ArrowRows(_read_parquet(files), path, folder)
    try:
        return JsonRows(files[0], folder)
    except (OSError, ValueError) as error:
        raise BenchmarkError(f"dataset.path: {files[0]} cannot be read: {error}") from error


def find_files(path: str, config: str | None, split: str) -> list[Path]:
    """The files of a split: ``<split>*.parquet`` of the folder, its ``data`` or its ``<config>``; else a jsonl or json.

    A folder that holds one file only needs no split in its name.
    """
    place = Path(path).expanduser()
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise BenchmarkError(f"dataset.path={path}: there is no such folder or file")
    folders = [place / config, place / config / "data"] if config else []
    for folder in (*folders, place, place / "data"):
        for suffix in ("parquet", "jsonl", "json"):
            found = sorted(folder.glob(f"*.{suffix}"))
            chosen = [file for file in found if file.stem == split or file.name.startswith((f"{split}-", f"{split}."))]
            chosen = chosen or (found if len(found) == 1 else [])
            if chosen:
                return chosen if suffix == "parquet" else chosen[:1]
    names = ", ".join(sorted(str(file.relative_to(place)) for file in place.rglob("*.*"))[:8]) or "nothing"
    wanted = f"{config}/{split}" if config else split
    raise BenchmarkError(f"dataset.path={path} lacks {wanted}-*.parquet or {split}.jsonl; it holds {names}")


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


def _from_hub(hub: Sequence[str], config: str | None, split: str, revision: str | None) -> Rows:
    if not hub:
        raise BenchmarkError("dataset.path is not set, and this data set is not on the hub: give its folder or file")
    reasons = []
    for name in hub:
        try:
            dataset = _datasets().load_dataset(name, config, split=split, revision=revision)
            return ArrowRows(dataset, name)
        except (OSError, ValueError, RuntimeError) as error:  # not there, not reachable, no such revision or split
            reasons.append(f"{name}: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
    wanted = f"config {config}, split {split}, revision {revision or 'newest'}"
    raise BenchmarkError(
        f"dataset.hub: no source could be loaded ({wanted}): {'; '.join(reasons)}. "
        f"Without network give a local copy: dataset.path=<folder of parquet files>"
    )


def _read_parquet(files: Sequence[Path]) -> Dataset:
    """Parquet files as one memory-mapped table (in the cache of ``datasets``)."""
    datasets = _datasets()
    import pyarrow.parquet

    for file in files:
        try:
            pyarrow.parquet.read_schema(file)
        except (OSError, pyarrow.ArrowException) as error:
            raise BenchmarkError(f"dataset.path: {file} is not a whole parquet file: {error}") from error
    try:
        return datasets.load_dataset("parquet", data_files=[str(file) for file in files], split="train")
    except (OSError, ValueError, RuntimeError) as error:
        reason = error.__cause__ or error
        raise BenchmarkError(f"dataset.path: {files[0].parent} cannot be read: {reason}") from error


def _datasets():
    """The library, which an installation without the extra ``data`` lacks."""
    try:
        import datasets
    except ImportError as error:
        raise BenchmarkError(
            "this dataset needs the package datasets: pip install 'nuwa-vlm[data]' (a local .jsonl works without)"
        ) from error
    return datasets


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
