"""Where rows come from: the Hugging Face hub, through ``datasets``, or a local folder with the same columns.

Parquet first becomes a memory-mapped table in the cache of ``datasets``, or is read where it lies (``streaming``).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nuwa.benchmarks.base import BenchmarkError
from nuwa.benchmarks.rows import ArrowRows, JsonRows, Rows
from nuwa.benchmarks.streamed import ParquetRows

if TYPE_CHECKING:
    from datasets import DatasetBuilder

_SHARD = re.compile(r"(?P<split>.+)-(?P<number>\d{5,})-of-(?P<count>\d{5,})(?:-[0-9a-f]+)?")
"""The hub's name of a shard; older data sets put a hash behind it."""
SHOWN = 8  # names in a message

log = logging.getLogger(__name__)


def load_rows(
    hub: Sequence[str],
    config: str | None,
    split: str,
    revision: str | None = None,
    path: str | None = None,
    images: str | None = None,
    streaming: bool = False,
) -> Rows:
    """Rows of ``path`` if it is given, otherwise of the first id in ``hub`` that can be loaded.

    The options are those of `HubBenchmark`; ``config`` may be a folder below ``path``, and ``images`` is the folder of
    the pictures that rows name (None: the file's own).

    Raises:
        BenchmarkError: there is nothing to load, or it cannot be read.
    """
    if path is None:
        return _from_hub(hub, config, split, revision, streaming)
    files = find_files(path, config, split)
    folder = Path(images).expanduser() if images else files[0].parent
    if not folder.is_dir():
        raise BenchmarkError(f"dataset.images_folder={images}: there is no such folder")
    if files[0].suffix == ".parquet":
        return _from_parquet(files, path, folder, streaming)
    try:
        return JsonRows(files[0], folder)
    except (OSError, ValueError) as error:
        raise BenchmarkError(f"dataset.path: {files[0]} cannot be read: {error}") from error


def find_files(path: str, config: str | None, split: str) -> list[Path]:
    """The files of a split: ``<split>*.parquet`` of the folder, its ``data`` or its ``<config>``; else a jsonl or json.

    A folder that holds one file only needs no split in its name, unless that is the name of another split's shard.

    Raises:
        BenchmarkError: there is no such file, a shard is missing, or several files could be meant.
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
            files = [file for file in found if file.stem == split or file.name.startswith((f"{split}-", f"{split}."))]
            files = files or [file for file in found if len(found) == 1 and not _SHARD.fullmatch(file.stem)]
            if files:
                _refuse_parts(path, files, split)
                return files
    names = _listed(sorted(str(file.relative_to(place)) for file in place.rglob("*.*"))) or "nothing"
    wanted = f"{config}/{split}" if config else split
    raise BenchmarkError(f"dataset.path={path} lacks {wanted}-*.parquet or {split}.jsonl; it holds {names}")


def _refuse_parts(path: str, files: Sequence[Path], split: str) -> None:
    """Refuse missing shards of parquet, and more than one jsonl or json."""
    suffix = files[0].suffix
    missing = missing_shards([file.stem for file in files])
    if missing:
        names = _listed([f"{name}{suffix}" for name in missing])
        raise BenchmarkError(f"dataset.path={path} lacks shards of {split}: {names}")
    if len(files) > 1 and suffix != ".parquet":
        names = _listed([file.name for file in files])
        raise BenchmarkError(f"dataset.path={path} may be {names}; give the one file that is meant")


def missing_shards(stems: Sequence[str]) -> list[str]:
    """The missing stems of each series ``<split>-NNNNN-of-MMMMM`` that has at least one of its own in ``stems``."""
    shards = [found for found in map(_SHARD.fullmatch, stems) if found]
    there = {(found["split"], found["count"], int(found["number"])) for found in shards}
    return [
        f"{split}-{number:05}-of-{count}"
        for split, count in sorted({shard[:2] for shard in there})
        for number in range(int(count))
        if (split, count, number) not in there
    ]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _from_parquet(files: Sequence[Path], path: str, folder: Path, streaming: bool) -> Rows:
    """Local parquet, as it lies or as one memory-mapped table in the cache of ``datasets``."""
    datasets = _datasets()
    try:
        rows = ParquetRows([str(file) for file in files], path, folder)  # whole files have a readable end
    except BenchmarkError as error:
        raise BenchmarkError(f"dataset.path: {error}") from error
    if streaming:
        return rows
    try:
        table = datasets.load_dataset("parquet", data_files=rows.files, split="train")
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        log.warning("%s is read where it lies, because it cannot be converted: %s", path, error.__cause__ or error)
        return rows  # of which a damaged part fails the samples in it alone
    return ArrowRows(table, path, folder)


def _from_hub(hub: Sequence[str], config: str | None, split: str, revision: str | None, streaming: bool) -> Rows:
    if not hub:
        raise BenchmarkError("dataset.path is not set, and this data set is not on the hub: give its folder or file")
    datasets, reasons = _datasets(), []
    for name in hub:
        try:
            builder = datasets.load_dataset_builder(name, config, revision=revision)
            return _rows_of(builder, name, split, revision, streaming)
        except (
            OSError,
            ValueError,
            RuntimeError,
            datasets.exceptions.DatasetsError,
        ) as error:  # not there, not reachable, no such revision or split
            reasons.append(f"{name}: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
    wanted = f"config {config}, split {split}, revision {revision or 'newest'}"
    raise BenchmarkError(
        f"dataset.hub: no source could be loaded ({wanted}): {'; '.join(reasons)}. "
        f"Without network give a local copy: dataset.path=<folder of parquet files>"
    )


def _rows_of(builder: DatasetBuilder, name: str, split: str, revision: str | None, streaming: bool) -> Rows:
    """The rows of a split; their source names the commit. A ValueError says why there are none."""
    source, splits = f"{name}@{builder.hash}", builder.config.data_files
    if not splits and streaming:
        raise ValueError("the hub cannot be reached, which dataset.streaming=true needs")
    if not splits and revision is not None and not builder.hash.startswith(revision):  # datasets would take any
        raise ValueError(f"the hub cannot be reached, and the cache holds revision {builder.hash}")
    if not streaming:
        builder.download_and_prepare()
        return ArrowRows(builder.as_dataset(split=split), source)
    if split not in splits:
        raise ValueError(f"it has the splits {', '.join(splits)}")
    if not all(file.endswith(".parquet") for file in splits[split]):
        raise ValueError("its files are not parquet; use dataset.streaming=false")
    return ParquetRows(splits[split], source)


def _datasets():
    """The package ``datasets``, which comes with the extra ``data``."""
    try:
        import datasets
    except ImportError as error:
        raise BenchmarkError(
            "this dataset needs the package datasets: pip install 'nuwa-vlm[data]' (a local .jsonl works without)"
        ) from error
    return datasets
