"""Local files that a config names: where they are, and what they hold."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

PACKAGE = "package:"
_END = 1 << 20  # bytes


def local_path(path: str) -> Path:
    """``package:<folder inside nuwa>`` or an ordinary path, which may exist or not."""
    if path.startswith(PACKAGE):
        return Path(__file__).parent / path.removeprefix(PACKAGE)
    return Path(path).expanduser()


def fingerprint(path: Path, suffixes: tuple[str, ...] = ("",)) -> str | None:
    """What a local file or folder holds, as far as that is cheap to tell; None if there is none.

    Names, sizes, the text of JSON and Python files and both ends of weights: new weights, an edited question or another
    picture make a new run. Only files that end in one of ``suffixes`` count.
    """
    if not path.exists():
        return None
    digest = hashlib.blake2b(digest_size=8)
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if not (file.is_file() and file.name.endswith(suffixes)):
            continue
        digest.update(f"{file.relative_to(path)}:{file.stat().st_size}".encode())
        if file.suffix in (".json", ".jsonl", ".py"):
            digest.update(file.read_bytes())
        elif file.suffix == ".safetensors":
            with file.open("rb") as content:
                digest.update(content.read(_END))
                content.seek(-min(_END, file.stat().st_size), os.SEEK_END)
                digest.update(content.read())
    return digest.hexdigest()
