"""The journal survives kills, and refuses what is not its own."""

import errno
import os

import pytest

from nuwa.evaluation.journal import Journal, JournalError, read_rows


@pytest.fixture
def path(tmp_path):
    journal = Journal(tmp_path / "predictions.jsonl", "key")
    journal.append([{"id": "a"}, {"id": "b"}])
    journal.append([{"id": "ü"}])
    return journal.path


def ids(rows):
    return [row["id"] for row in rows]


def test_rows_come_back(path):
    assert ids(Journal(path, "key").rows) == ids(read_rows(path)) == ["a", "b", "ü"]


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_torn_tail_is_dropped_and_repaired(path, cut):
    content = path.read_bytes()
    path.write_bytes(content[:-cut])
    journal = Journal(path, "key")
    assert ids(journal.rows) == ["a", "b", "ü"][: len(journal)]
    journal.keep(min(len(journal), 2))
    journal.append([{"id": "ü"}] if len(journal) == 2 else [{"id": "b"}, {"id": "ü"}])
    assert path.read_bytes() == content


def test_broken_line_in_the_middle_is_an_error(path):
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"{broken\n" + lines[2])
    with pytest.raises(JournalError, match="line 2"):
        Journal(path, "key")


def test_journal_of_another_run_is_refused(path):
    with pytest.raises(JournalError, match="belongs to run key, not other"):
        Journal(path, "other")


def test_full_disk_is_named_and_loses_nothing(path, monkeypatch):
    journal = Journal(path, "key")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(JournalError, match=r"predictions.jsonl: No space left on device; 3 rows are safe"):
        journal.append([{"id": "c"}])
    assert ids(read_rows(path))[:3] == ["a", "b", "ü"]
