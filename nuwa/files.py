"""Local files that a config names: their paths and a fingerprint of what they hold."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from nuwa.contents import content_digests

PACKAGE = "package:"


def local_path(path: str) -> Path:
    """The path that is meant by ``package:<folder inside nuwa>`` or by an ordinary path, which need not exist.

    >>> local_path("package:tiny/llava").parts[-3:]
    ('nuwa', 'tiny', 'llava')
    """
    if path.startswith(PACKAGE):
        return Path(__file__).parent / path.removeprefix(PACKAGE)
    return Path(path).expanduser()


def fingerprint(path: Path, suffixes: tuple[str, ...] = ("",), without: Collection[Path] = ()) -> str | None:
    """A digest of the names and contents of a local file or folder; None if there is no such file.

    In a folder, files count whose names end in one of ``suffixes``, except hidden ones and those in the folders
    ``without``. The files at or below the folder that the rows of its ``.jsonl`` files name count in any case, hidden
    or behind a link, and all that folders hold which they name; of a single ``.jsonl`` file they count as well.
    """
    if not path.exists():
        return None
    root, files = (path, set(_below(path, without))) if path.is_dir() else (path.parent, {path.name})
    for rows in root.glob("*.jsonl") if path.is_dir() else [path]:
        files |= _named_in(rows, without)
    start = f"{root}{os.sep}"
    digest = hashlib.blake2b(digest_size=8)
    contents = content_digests(sorted(start + name for name in files if name.endswith(suffixes)))
    for file, content in contents.items():
        digest.update(f"{file.removeprefix(start)}:{content}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _below(folder: Path, without: Collection[Path]) -> Iterator[str]:
    """The files below a folder, except hidden ones, by their paths from there."""
    for place, names, files in os.walk(folder):
        here = Path(place)
        names[:] = [name for name in names if name[0] != "." and (here / name).resolve() not in without]
        start = "" if here == folder else f"{here.relative_to(folder)}{os.sep}"
        yield from (start + name for name in files if name[0] != ".")


def _named_in(file: Path, without: Collection[Path]) -> set[str]:
    """The files that the rows of a ``.jsonl`` file name, by their paths from its folder; broken rows are skipped."""
    found: set[str] = set()
    with suppress(OSError):
        for line in file.read_bytes().splitlines() if file.suffix == ".jsonl" and file.is_file() else ():
            with suppress(ValueError, RecursionError):
                found |= set(map(os.path.normpath, _texts(json.loads(line))))
    named = {name for text in found for name in _from(file.parent, text)} - {file.name, os.curdir}
    start = f"{file.parent}{os.sep}"
    folders = {name for name in named if os.path.isdir(start + name)}  # noqa: PTH112 (a Path for each takes seconds)
    read = {name for name in folders if (file.parent / name).resolve() not in without}
    below = {f"{name}{os.sep}{inside}" for name in read for inside in _below(file.parent / name, without)}
    return named - folders | below


def _from(folder: Path, name: str) -> list[str]:
    """The path that leads from a folder to what its rows name, if that is inside."""
    if not name.startswith((os.sep, os.pardir)):
        return [name]
    ways = (os.path.relpath(place / name, place) for place in (folder, folder.resolve()))
    return [way for way in ways if not way.startswith(os.pardir)][:1]


def _texts(value: Any) -> Iterator[str]:
    """Every string in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)
