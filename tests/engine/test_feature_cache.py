"""A folder of vision features with a limit, that nothing depends on."""

from __future__ import annotations

import math
import multiprocessing
import os
import shutil
import time

import torch

from nuwa.engine.feature_cache import FeatureCache

TENSORS = {"x": torch.arange(250.0), "half": torch.ones(3, 2, dtype=torch.bfloat16)[:, :1]}
CPU = torch.device("cpu")


def filled(folder, space, count, limit=10**8, age=0):
    cache = FeatureCache(folder, space, limit)
    for number in range(count):
        cache.store(f"{space} {number}", TENSORS)
    if age and cache.folder.exists():
        os.utime(cache.folder, (time.time() - age,) * 2)
    return cache


def test_what_was_stored_comes_back(tmp_path):
    cache = filled(tmp_path, "a", 1)
    found = cache.load("a 0", CPU)
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[name], values) for name, values in TENSORS.items())
    assert cache.load("a 1", CPU) is None and (cache.hits, cache.misses) == (1, 1)


def test_tensors_may_share_memory(tmp_path):
    cache, x = FeatureCache(tmp_path, "a", 10**8), torch.arange(12.0)
    cache.store("a 0", {"whole": x, "again": x, "part": x[2:8], "turned": x.view(3, 4).T})
    found = cache.load("a 0", CPU)
    assert torch.equal(found["part"], x[2:8]) and torch.equal(found["turned"], x.view(3, 4).T)


def test_other_spaces_make_room_oldest_first_and_the_own_stays(tmp_path):
    old, older = filled(tmp_path, "old", 2, age=50), filled(tmp_path, "older", 2, age=100)
    each = next(old.folder.iterdir()).stat().st_size
    cache = filled(tmp_path, "own", 2, limit=5 * each)
    assert not older.folder.exists() and len(list(old.folder.iterdir())) == 2
    cache = filled(tmp_path, "own", 9, limit=5 * each)
    assert not old.folder.exists() and 4 <= len(list(cache.folder.iterdir())) <= 5
    assert cache.refused < each and cache.load("own 0", CPU) is not None and cache.load("own 8", CPU) is None


def test_what_cannot_fit_costs_others_nothing_and_smaller_things_still_fit(tmp_path):
    other = filled(tmp_path, "other", 2, age=50)
    each = next(other.folder.iterdir()).stat().st_size
    cache = filled(tmp_path, "own", 1, limit=4 * each)
    for count in (2000, 1000):  # more than the limit, and more than is left beside what the own space holds
        cache.store("large", {"x": torch.zeros(count)})
        assert other.load("other 0", CPU) is not None and cache.load("large", CPU) is None
    cache.store("own 1", TENSORS)
    assert cache.load("own 1", CPU) is not None and len(list(other.folder.iterdir())) == 2


def test_what_fits_exactly_is_kept_and_no_more_makes_room_than_it_takes(tmp_path):
    values = {"x": torch.zeros(1000)}
    FeatureCache(tmp_path / "empty", "own", 4000).store("x", values)
    assert list((tmp_path / "empty").rglob("*.safetensors"))
    old, older = filled(tmp_path, "old", 1, age=50), filled(tmp_path, "older", 1, age=100)
    own = filled(tmp_path, "own", 1)
    each = next(own.folder.iterdir()).stat().st_size
    cache = FeatureCache(tmp_path, "own", 2 * each + 4000)  # all but one of the others, and none over
    cache.store("x", values)
    assert cache.load("x", CPU) is not None and cache.refused == math.inf
    assert old.folder.exists() and not older.folder.exists()
    cache = FeatureCache(tmp_path, "own", cache._size - each + 1000)  # none of the others
    cache.store("y", {"x": torch.zeros(250)})
    assert cache.load("y", CPU) is not None and not old.folder.exists()


def test_what_was_refused_once_is_not_tried_again(tmp_path):
    cache = filled(tmp_path, "own", 2, limit=3000)
    cache.store("large", {"x": torch.zeros(500)})
    assert cache.refused == 2000
    shutil.rmtree(cache.folder)
    other = filled(tmp_path, "other", 2)
    for count in (500, 600):
        cache.store("large", {"x": torch.zeros(count)})
        assert cache.load("large", CPU) is None and len(list(other.folder.iterdir())) == 2


def test_a_torn_file_counts_as_missing(tmp_path, caplog):
    cache = filled(tmp_path, "a", 2)
    for path in cache.folder.iterdir():
        path.write_bytes(path.read_bytes()[:-7])
    assert cache.load("a 0", CPU) is None and "computed again" in caplog.text
    cache.store("a 0", TENSORS)
    assert cache.load("a 0", CPU) is not None


def test_a_full_disk_ends_storing_only(tmp_path, caplog, monkeypatch):
    def full(path, content):
        with path.open("wb") as file:
            file.write(content[:7])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    cache = filled(tmp_path, "a", 3)
    assert cache.refused == 0 and caplog.text.count("No space left") == 1 and not list(cache.folder.iterdir())


def test_the_folder_may_vanish(tmp_path):
    cache = filled(tmp_path / "cache", "a", 2)
    shutil.rmtree(tmp_path / "cache")
    assert cache.load("a 0", CPU) is None
    cache.store("a 0", TENSORS)
    assert cache.load("a 0", CPU) is not None


def test_what_others_keep_in_the_folder_stays(tmp_path):
    mine = [tmp_path / name for name in ("thesis/draft.txt", "models/model.safetensors", "model.safetensors")]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"years of work" * 1000)
        os.utime(path.parent, (0, 0))
    loose = filled(tmp_path, "old", 1, age=50).folder / "notes.txt"
    loose.write_text("mine, too")
    cache = filled(tmp_path, "own", 3, limit=2 * 10**3)
    assert all(path.exists() for path in [*mine, loose]) and cache.refused < 2 * 10**3
    assert [path.name for path in loose.parent.iterdir()] == ["notes.txt"]


def test_a_space_that_is_only_read_is_in_use(tmp_path):
    warm, cold = filled(tmp_path, "warm", 2, age=100), filled(tmp_path, "cold", 2, age=50)
    assert FeatureCache(tmp_path, "warm", 10**8).load("warm 0", CPU) is not None
    each = next(cold.folder.iterdir()).stat().st_size
    filled(tmp_path, "own", 1, limit=4 * each)
    assert warm.folder.exists() and not cold.folder.exists()


def test_a_folder_that_is_a_file_ends_storing_only(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    cache = filled(tmp_path / "file", "a", 2)
    assert cache.refused == 0 and cache.load("a 0", CPU) is None
    assert "no longer kept" in caplog.text


def store_and_load(folder, number):
    """A process that fills a folder in which there is no room for all, two of them the same part, and reads it."""
    cache = FeatureCache(folder, f"space {number % 3}", 15_000)
    for turn in range(1500):
        found = cache.load(str(turn % 9), CPU)
        if found is None:
            cache.store(str(turn % 9), {"x": torch.full((250,), float(turn % 9))})
        else:
            assert bool((found["x"] == turn % 9).all())
        cache.refused = math.inf


def test_processes_that_share_a_folder_disturb_no_run(tmp_path, capfd):
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=store_and_load, args=(tmp_path, number)) for number in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert "no longer kept" not in capfd.readouterr().err
