"""Which files are taken for the same: those with the same bytes, whatever their sizes and times say."""

import os
import subprocess
import sys
import time

import pytest
from helpers.jobs import ROOT

from nuwa import contents
from nuwa.contents import UNREADABLE, content_digests
from nuwa.files import fingerprint

MEBIBYTE = 1 << 20


@pytest.fixture(autouse=True)
def own_memory(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(contents, "_known", {})


@pytest.mark.parametrize("name", ["a.bmp", "model.safetensors", "test.parquet", "notes", "config.json"])
def test_one_byte_in_the_middle_of_the_same_size_and_times(name, tmp_path):
    (tmp_path / "data").mkdir()
    file = tmp_path / "data" / name
    content = bytearray(4 * MEBIBYTE)
    keys = []
    for value in (0, 1):
        content[2 * MEBIBYTE] = value
        file.write_bytes(content)
        os.utime(file, (1, 1))
        keys.append((fingerprint(file), fingerprint(file.parent)))
    assert keys[0][0] != keys[1][0] and keys[0][1] != keys[1][1]


def test_names_count_and_places_do_not(tmp_path):
    keys = []
    for folder, name in (("one", "a"), ("two", "a"), ("three", "b")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text("x")
        keys.append(fingerprint(tmp_path / folder))
    assert keys[0] == keys[1] != keys[2]


def old(file):
    """A file that has not changed for a while: ctime cannot be set, so the clock moves instead."""
    return file.stat().st_ctime_ns + contents.SETTLING + 1


def test_a_file_is_read_once_until_it_changes(tmp_path, monkeypatch):
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    read = []
    digest = contents._digest
    monkeypatch.setattr(contents, "_digest", lambda path: read.append(path) or digest(path))
    first = content_digests([str(file)])
    assert content_digests([str(file)]) == first and len(read) == 2  # too fresh to be remembered
    now = old(file)
    monkeypatch.setattr(time, "time_ns", lambda: now)
    for memory in ({}, {}, None):  # a new process, another, the same
        if memory is not None:
            monkeypatch.setattr(contents, "_known", memory)
        assert content_digests([str(file)]) == first
    assert len(read) == 3
    before = file.stat()
    file.write_bytes(b"two")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # as `cp -p` and `touch -r` do
    assert content_digests([str(file)]) != first


def test_another_process_finds_what_one_has_read(tmp_path, monkeypatch):
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    now = old(file)
    monkeypatch.setattr(time, "time_ns", lambda: now)
    first = content_digests([str(file)])
    program = f"from nuwa import contents; contents._digest = None;print(contents.content_digests([{str(file)!r}]))"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    printed = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert printed.stdout.strip() == str(first), printed.stderr


@pytest.mark.parametrize("harm", ["a file", "no database", "home"])
def test_without_a_cache_it_works_all_the_same(harm, tmp_path, monkeypatch):
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    first = content_digests([str(file)])
    if harm == "a file":
        monkeypatch.setenv("XDG_CACHE_HOME", str(file))
    elif harm == "home":
        monkeypatch.setenv("XDG_CACHE_HOME", "~nobody-of-this-name/x")
    else:
        (tmp_path / "cache/nuwa").mkdir(parents=True, exist_ok=True)
        (tmp_path / "cache/nuwa/contents.sqlite").write_bytes(b"no database" * 1000)
    now = old(file)
    monkeypatch.setattr(time, "time_ns", lambda: now)
    monkeypatch.setattr(contents, "_known", {})
    assert content_digests([str(file)]) == first


def test_what_is_no_file_does_not_count(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    (tmp_path / "file").write_bytes(b"")
    assert list(content_digests(map(str, tmp_path.iterdir()))) == [str(tmp_path / "file")]
    assert content_digests(["a\0b", "x" * 5000]) == {}


def test_a_file_that_cannot_be_read(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"x")
    monkeypatch.setattr(contents.Path, "open", lambda *_: (_ for _ in ()).throw(PermissionError(13, "no")))
    assert content_digests([str(tmp_path / "file")]) == {str(tmp_path / "file"): UNREADABLE}


def test_rows_name_files_below_their_folder_only(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "secret").write_text("1")
    rows = tmp_path / "data/data.jsonl"
    nested = "[" * 5000 + "]" * 5000
    rows.write_text(f'{{"image": "a.png", "question": "{tmp_path}/secret", "hint": "../secret"}}\n{nested}\n')
    (tmp_path / "data/a.png").write_text("1")
    key = fingerprint(rows)
    (tmp_path / "secret").write_text("2")
    assert fingerprint(rows) == key
    (tmp_path / "data/a.png").write_text("2")
    assert fingerprint(rows) != key


@pytest.mark.parametrize("said", ["folder/a.png", "{}/folder/a.png", "../data/folder/a.png", ".a.png", "now/a.png"])
@pytest.mark.parametrize("chosen", ["", "data.jsonl"])
def test_what_rows_name_counts_however_they_spell_it(said, chosen, tmp_path):
    data = tmp_path / "data"
    for place in ("folder", "other", "outputs"):
        (data / place).mkdir(parents=True)
    (data / "now").symlink_to("folder")
    name = said.format(data)
    (data / "data.jsonl").write_text(f'{{"image": "{name}", "answer": "outputs"}}')
    (data / name).write_text("1")
    (tmp_path / "link").symlink_to(data)
    path, without = tmp_path / "link" / chosen, [data / "outputs"]
    key = fingerprint(path, without=without)
    (data / "outputs/result").write_text("1")
    assert fingerprint(path, without=without) == key
    (data / name).write_text("2")
    assert fingerprint(path, without=without) != key


def test_a_link_to_another_folder_is_other_data(tmp_path):
    data, keys = tmp_path / "data", []
    for place in ("one", "two"):
        (data / place).mkdir(parents=True)
        (data / place / "a.png").write_text(place)
    (data / "data.jsonl").write_text('{"image": "now/a.png"}')
    for place in ("one", "two"):
        (data / "now").unlink(missing_ok=True)
        (data / "now").symlink_to(place)
        keys.append(fingerprint(data))
    assert keys[0] != keys[1]
