"""The journal survives kills, and refuses what is not its own."""

import errno
import os

import pytest
from helpers.made_up import row

from nuwa.evaluation.journal import Journal, JournalError, read_rows
from nuwa.evaluation.reading import UnreadableError


@pytest.fixture
def path(tmp_path):
    journal = Journal(tmp_path / "predictions.jsonl", "key")
    journal.append([row("a"), row("b")])
    journal.append([row("ü")])
    return journal.path


def ids(rows):
    return [one["id"] for one in rows]


def test_rows_come_back(path):
    assert ids(Journal(path, "key").rows) == ids(read_rows(path)) == ["a", "b", "ü"]


@pytest.mark.parametrize("cut", range(1, 220, 15))
def test_torn_tail_is_dropped_and_repaired(path, cut):
    content = path.read_bytes()
    path.write_bytes(content[:-cut])
    journal = Journal(path, "key")
    assert ids(journal.rows) == ["a", "b", "ü"][: len(journal)]
    journal.keep(min(len(journal), 2))
    journal.append([row("ü")] if len(journal) == 2 else [row("b"), row("ü")])
    assert path.read_bytes() == content


def test_broken_line_in_the_middle_is_an_error(path):
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"{broken\n" + lines[2])
    with pytest.raises(UnreadableError, match=r"unreadable: .*predictions.jsonl, line 2: no row: not JSON"):
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
        journal.append([row("c")])
    assert ids(read_rows(path))[:3] == ["a", "b", "ü"]


def test_a_last_line_without_its_newline_is_torn(path):
    """It is JSON and looks whole, but the next row would be glued to it."""
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    journal = Journal(path, "key")
    assert len(journal) == 2 and ids(read_rows(path)) == ["a", "b"]
    journal.keep(len(journal))
    journal.append([row("ü"), row("c")])
    assert ids(Journal(path, "key").rows) == ["a", "b", "ü", "c"]


def test_rows_are_counted_as_they_are_appended(path):
    journal = Journal(path, "key")
    for count in (4, 5):
        journal.append([row(str(count))])
        assert len(journal) == count and ids(journal.rows)[-1] == str(count)
    journal.keep(4)
    assert len(journal) == 4 and ids(read_rows(path)) == ["a", "b", "ü", "4"]
