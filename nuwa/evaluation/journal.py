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
from typing import Any

Row = dict[str, Any]
JOURNAL = "predictions.jsonl"
PARTS = "predictions.*.jsonl"
BATCH, BATCH_END = "batch", "batch_end"
"""Keys of a row: the number of its batch, and whether it is the last row of that batch."""


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

    A batch that a kill has cut short is dropped. A batch that is both in the journal and in a part counts once, so that
    a merge that was killed can be repeated.
    """
    folder = Path(folder)
    journal = Journal(folder / JOURNAL, run_key)
    parts = sorted(folder.glob(PARTS))
    written = [batch for path in parts for batch in whole_batches(Journal(path, run_key).rows)]
    batches = {tuple(row["id"] for row in batch): batch for batch in [*whole_batches(journal.rows), *written]}
    rows = [row for batch in sorted(batches.values(), key=lambda batch: batch[0][BATCH]) for row in batch]
    if rows == journal.rows[: len(rows)]:
        journal.keep(len(rows))
    else:
        journal.replace(rows)
    for path in parts:
        path.unlink()
    return journal


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
        JournalError: a row before the last one is broken.
    """
    return [row for row, _ in _complete_rows(Path(path))]


def answered(rows: Iterable[Row]) -> list[Row]:
    """The rows whose samples could be used, and so have an answer and scores."""
    return [row for row in rows if row["status"] == "ok"]


def read_answers(folder: Path) -> list[Row]:
    """The answered rows of the run in a folder; none if it has no journal.

    Raises:
        JournalError: the journal is broken.
    """
    return answered(read_rows(Path(folder) / JOURNAL))


def _complete_rows(path: Path) -> Iterable[tuple[Row, int]]:
    """Every complete row and the byte at which it ends; only the last line may be torn."""
    if not path.exists():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    end = 0
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            if number == len(lines):
                return
            raise JournalError(f"{path}, line {number}: not a JSON row; repair it or set resume=false") from error
        if not line.endswith(b"\n"):
            return
        end += len(line)
        yield row, end
