"""Digests of what files hold, computed once for each version of a file.

A version is told by the file's place on the disk (device, inode), its size and the times of its last change, one of
which (ctime) no program can set. Digests are remembered in this process and in the user's cache folder. A file that
changed a moment ago is not remembered: a second change might leave its times as they are.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path

THREADS = 8
SETTLING = 2 * 10**9  # ns
UNREADABLE = "unreadable"
NO_MEMORY = (sqlite3.Error, OSError, RuntimeError)
"""What may be wrong with the cache; digests are then computed again."""
Version = tuple[str, str]
"""Where a file is, and what tells that it has changed."""

_known: dict[Version, str] = {}


def content_digests(files: Iterable[str]) -> dict[str, str]:
    """A digest of each file's content; `UNREADABLE` where it cannot be read. What is no regular file is left out."""
    versions = {file: version for file in files if (version := _version(file)) is not None}
    unknown = {version: file for file, version in versions.items() if version not in _known}
    if unknown:
        _known.update(_remembered(unknown))
    left = {version: file for version, file in unknown.items() if version not in _known}
    with ThreadPoolExecutor(THREADS) as threads:
        computed = dict(zip(left, threads.map(_digest, left.values()), strict=True))
    lasting = {version: digest for version, digest in computed.items() if _lasts(version) and digest != UNREADABLE}
    if lasting:
        _known.update(lasting)
        _remember(lasting)
    found = computed | _known
    return {file: found[version] for file, version in versions.items()}


def _version(file: str) -> Version | None:
    """The version of a regular file; None for anything else."""
    try:
        found = os.stat(file)  # noqa: PTH116 (a Path for each of 40,000 pictures takes seconds)
    except (OSError, ValueError):  # gone, a loop of links, or can be no name
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    return f"{found.st_dev}:{found.st_ino}", f"{found.st_size}:{found.st_mtime_ns}:{found.st_ctime_ns}"


def _lasts(version: Version) -> bool:
    """Whether any change from now on would show in the file's times."""
    _, modified, changed = map(int, version[1].split(":"))
    return max(modified, changed) < time.time_ns() - SETTLING


def _digest(file: str) -> str:
    try:
        with Path(file).open("rb") as content:
            return hashlib.file_digest(content, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError:
        return UNREADABLE


@contextmanager
def _database() -> Iterator[sqlite3.Connection]:
    """What this user's processes remember.

    Raises:
        sqlite3.Error, OSError, RuntimeError: no folder, no database, or another process's lock.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "nuwa"
    folder.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(folder / "contents.sqlite", timeout=1)) as database, database:
        database.execute("CREATE TABLE IF NOT EXISTS contents (place TEXT PRIMARY KEY, state TEXT, digest TEXT)")
        yield database


def _remembered(versions: Iterable[Version]) -> dict[Version, str]:
    found: dict[Version, str] = {}
    query = "SELECT digest FROM contents WHERE place = ? AND state = ?"
    with suppress(*NO_MEMORY), _database() as database:
        for version in versions:
            for (digest,) in database.execute(query, version):
                found[version] = digest
    return found


def _remember(digests: Mapping[Version, str]) -> None:
    rows = [(*version, digest) for version, digest in digests.items()]
    with suppress(*NO_MEMORY), _database() as database:
        database.executemany("INSERT OR REPLACE INTO contents VALUES (?, ?, ?)", rows)
