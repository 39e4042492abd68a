"""Local files that a config names: their paths and a fingerprint of their content."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

PACKAGE = "package:"
_END = 1 << 20  # bytes


def local_path(path: str) -> Path:
    """The path that is meant by ``package:<folder inside nuwa>`` or by an ordinary path, which need not exist.

    >>> local_path("package:tiny/llava").parts[-3:]
    ('nuwa', 'tiny', 'llava')
    """
    if path.startswith(PACKAGE):
        return Path(__file__).parent / path.removeprefix(PACKAGE)
    return Path(path).expanduser()


def fingerprint(path: Path, suffixes: tuple[str, ...] = ("",), without: Collection[Path] = ()) -> str | None:
    """A digest of a local file or folder, cheap to compute; None if there is no such file.

    It covers names, sizes, the text of JSON, text and Python files, and both ends of weights and tables, so that new
    weights, an edited question or another picture make a new run. In a folder, files count whose names end in one of
    ``suffixes``, except hidden ones and those in the folders ``without``. With a ``.jsonl`` file, the files that its
    rows name count too.
    """
    if not path.exists():
        return None
    digest = hashlib.blake2b(digest_size=8)
    root, files = (path, _below(path, without)) if path.is_dir() else (path.parent, [path, *_named_in(path)])
    for file in sorted(files):
        if not (file.is_file() and file.name.endswith(suffixes)):
            continue
        digest.update(f"{os.path.relpath(file, root)}:{file.stat().st_size}".encode())
        if file.suffix in (".json", ".jsonl", ".py", ".txt"):
            digest.update(file.read_bytes())
        elif file.suffix in (".safetensors", ".parquet"):
            with file.open("rb") as content:
                digest.update(content.read(_END))
                content.seek(-min(_END, file.stat().st_size), os.SEEK_END)
                digest.update(content.read())
    return digest.hexdigest()


def _below(folder: Path, without: Collection[Path]) -> Iterator[Path]:
    """The files below a folder, except hidden ones."""
    for place, names, files in os.walk(folder):
        here = Path(place)
        names[:] = [name for name in names if name[0] != "." and (here / name).resolve() not in without]
        yield from (here / name for name in files if name[0] != ".")


def _named_in(file: Path) -> set[Path]:
    """The files that the rows of a ``.jsonl`` file name, relative to its folder; broken rows are skipped."""
    found: set[Path] = set()
    for line in file.read_bytes().splitlines() if file.suffix == ".jsonl" else ():
        with suppress(ValueError, RecursionError):
            found |= {file.parent / text for text in _texts(json.loads(line))}
    return set(filter(os.path.isfile, found))  # Path.is_file raises for a text too long for a name


def _texts(value: Any) -> Iterator[str]:
    """Every string in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)
