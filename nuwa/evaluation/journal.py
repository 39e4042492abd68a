"""predictions.jsonl: what a run has computed so far. A kill loses at most the batch that is being written.

Rows are appended batch by batch, and each batch is on disk before the next begins. A killed run leaves at most a torn
last batch, which is dropped when the file is opened; the rows before it are never computed again. Where several
processes share a run, each appends to a part of its own, and one of them merges the parts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, Literal, NotRequired

from pydantic import FiniteFloat, TypeAdapter
from typing_extensions import TypedDict  # pydantic takes typing's own from Python 3.12 on

from nuwa.evaluation.reading import UnreadableError, check_shape, content_of, from_json

Row = dict[str, Any]
JOURNAL = "predictions.jsonl"
PARTS = "predictions.*.jsonl"
BATCH, BATCH_END = "batch", "batch_end"
"""Keys of a row: the number of its batch, and whether it is the last row of that batch."""
PASSING = "passing"
"""Key of a failed row whose cause may pass; the same command tries its sample again."""


class _RowShape(TypedDict):
    """What a row must have, and what the rest must be where it is there."""

    id: str
    task: str
    status: Literal["ok", "failed"]
    scores: dict[str, FiniteFloat]
    run_key: NotRequired[str]
    batch: NotRequired[int]
    batch_end: NotRequired[bool]
    prompt: NotRequired[str]
    prediction: NotRequired[str]
    scored: NotRequired[str]
    remark: NotRequired[str]
    notes: NotRequired[list[str]]
    unknown: NotRequired[list[str]]
    reason: NotRequired[str]
    passing: NotRequired[bool]
    judge: NotRequired[str]
    meta: NotRequired[dict[str, Any]]
    kept: NotRequired[list[list[list[int]]]]
    image_tokens: NotRequired[list[int]]


_ROW = TypeAdapter(_RowShape)


class JournalError(OSError):
    """A journal cannot be used or written, or holds no answer; the message says which."""


class Journal:
    """The rows of one run in the order in which they were computed; they stay on disk and take no memory.

    Every row names its run, so that a file that was copied into another run's folder is refused.
    """

    def __init__(self, path: Path, run_key: str):
        self.path, self.run_key = Path(path), run_key
        self._ends: list[int] = []
        for row, end in _complete_rows(self.path):
            if row.get("run_key") != run_key:
                raise JournalError(
                    f"{self.path} belongs to run {row.get('run_key')}, not {run_key}; set resume=false to overwrite it"
                )
            self._ends.append(end)

    def __len__(self) -> int:
        return len(self._ends)

    @property
    def rows(self) -> list[Row]:
        """All rows, read anew."""
        return read_rows(self.path)[: len(self)]

    def keep(self, count: int) -> None:
        """Drop all rows after the first ``count``, and a torn end."""
        del self._ends[count:]
        if self.path.exists():
            try:
                os.truncate(self.path, self._end)
            except OSError as error:
                raise JournalError(f"cannot write {self.path}: {error.strerror}") from error

    def append(self, rows: Iterable[Row]) -> None:
        """Write ``rows`` and wait until they are on disk.

        Raises:
            JournalError: the disk is full or the file cannot be written; the rows before stay readable.
        """
        rows = [{"run_key": self.run_key, **row} for row in rows]
        lines = [json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows]
        try:
            with self.path.open("ab") as file:
                file.write(b"".join(lines))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise JournalError(f"cannot write {self.path}: {error.strerror}; {len(self)} rows are safe") from error
        self._ends += islice(accumulate(map(len, lines), initial=self._end), 1, None)

    def replace(self, rows: Iterable[Row]) -> None:
        """Put ``rows`` in the place of all that is there, in one step."""
        rewritten = Journal(self.path.with_name(f".{self.path.name}.new"), self.run_key)
        rewritten.keep(0)
        rewritten.append(rows)
        rewritten.path.replace(self.path)
        self._ends = rewritten._ends

    @property
    def _end(self) -> int:
        return self._ends[-1] if self._ends else 0


def part_path(folder: Path, rank: int) -> Path:
    """Where one of several processes writes its rows."""
    return Path(folder) / PARTS.replace("*", str(rank))


def merged(folder: Path, run_key: str) -> Journal:
    """The journal of a run with all that its processes wrote, in the order in which one process computes batches.

    A batch that a kill has cut short is dropped. What is both in the journal and in a part counts once, so that a merge
    that was killed can be repeated.
    """
    folder = Path(folder)
    journal = Journal(folder / JOURNAL, run_key)
    parts = sorted(folder.glob(PARTS))
    written = [batch for path in parts for batch in whole_batches(_numbered(Journal(path, run_key)))]
    batches = sorted([*whole_batches(_numbered(journal)), *written], key=lambda batch: batch[0][BATCH])
    rows = list({row["id"]: row for batch in batches for row in batch}.values())
    if rows == journal.rows[: len(rows)]:
        journal.keep(len(rows))
    else:
        journal.replace(rows)
    for path in parts:
        path.unlink()
    return journal


def _numbered(journal: Journal) -> list[Row]:
    """The rows of a journal, all of which say to which batch they belong."""
    rows = journal.rows
    for line, row in enumerate(rows, 1):
        if BATCH not in row:
            raise UnreadableError(journal.path, f"no row: lacks {BATCH}; repair it or set resume=false", line)
    return rows


def whole_batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Rows by batch, without a last batch that is incomplete.

    >>> list(whole_batches([{"batch_end": False}, {"batch_end": True}, {"batch_end": False}]))
    [[{'batch_end': False}, {'batch_end': True}]]
    """
    batch = []
    for row in rows:
        batch.append(row)
        if row.get(BATCH_END, True):
            yield batch
            batch = []


def read_rows(path: Path) -> list[Row]:
    """The complete rows of a journal, whichever run wrote them; none if there is no such file.

    Raises:
        UnreadableError: it is no file, or a row is none; only the last may be torn.
    """
    return [row for row, _ in _complete_rows(Path(path))]


def answered(rows: Iterable[Row]) -> list[Row]:
    """The rows whose samples could be used, and so have an answer and scores."""
    return [row for row in rows if row["status"] == "ok"]


def _complete_rows(path: Path) -> Iterable[tuple[Row, int]]:
    """Every complete row and the byte at which it ends; only the last line may be torn."""
    if not os.path.lexists(path):
        return
    *lines, last = content_of(path).splitlines(keepends=True) or [b""]
    if _is_whole(last):
        lines.append(last)
    end = 0
    for number, line in enumerate(lines, 1):
        try:
            row = from_json(line)
            check_shape(row, _ROW)
            if lacking := [key for key in ("prediction", "target") if row["status"] == "ok" and key not in row]:
                raise ValueError(f"lacks {' and '.join(lacking)}")
        except ValueError as error:
            raise UnreadableError(path, f"no row: {error}; repair it or set resume=false", number) from error
        end += len(line)
        yield row, end


def _is_whole(line: bytes) -> bool:
    """Whether a kill has left all of a line."""
    try:
        from_json(line)
    except ValueError:
        return False
    return line.endswith(b"\n")
