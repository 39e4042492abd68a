"""Data sets from a hub on this machine: which name, which version, how much of it, and what is said without network."""

import datasets
import pytest
from helpers.jobs import SMALL, compose
from helpers.published import benchmark, picture, pope, write_parquet, write_set

from nuwa.benchmarks.base import BenchmarkError
from nuwa.benchmarks.sources import load_rows
from nuwa.config import build, run_key, typed
from nuwa.evaluation.result import read_result
from nuwa.evaluation.run import run_job

OLD, NEW = "a" * 40, "b" * 40
NAMES = ["nuwa/moved", "nuwa/POPE", "nuwa/never"]
POPE = ("dataset=pope", f"dataset.hub=[{','.join(NAMES)}]")


@pytest.fixture
def versions(hub, tmp_path):
    """Two versions of a data set, of 6 and of 9 rows, in row groups of two."""
    for commit, count in ((OLD, 6), (NEW, 9)):
        write_set("pope", tmp_path / "hub/nuwa/POPE" / commit, count, group=2)
    return hub


def dataset(*overrides):
    return build(typed(compose(*POPE, *overrides), "dataset"))


@pytest.mark.parametrize("streaming", ["false", "true"])
@pytest.mark.parametrize(("revision", "commit", "count"), [("null", NEW, 9), (OLD, OLD, 6), (NEW, NEW, 9)])
def test_the_first_name_that_can_be_had_at_the_revision(streaming, revision, commit, count, versions):
    found = dataset(f"dataset.streaming={streaming}", f"dataset.revision={revision}")
    assert len(found) == count and found.source == f"nuwa/POPE@{commit}"
    assert found[1].images[0].size == picture(1).size and found[1].target["answer"] == pope(2)[1]["answer"]


def test_streaming_sends_what_the_samples_need(versions, tmp_path):
    whole = next((tmp_path / "hub").glob(f"nuwa/POPE/{NEW}/**/*.parquet")).stat().st_size
    found = dataset("dataset.streaming=true", f"dataset.revision={NEW}")
    ids = versions.parquet
    assert found[0].images and found[1].images
    assert versions.parquet - ids < 0.4 * whole  # one row group of five
    assert not list(tmp_path.glob("cache/**/*.arrow")) and not list(tmp_path.glob("hub_cache/**/*.parquet"))
    versions.sent.clear()
    assert len(dataset(f"dataset.revision={NEW}")) == 9 and versions.parquet >= whole


def test_gqa_joins_its_pictures_from_the_hub(hub, tmp_path):
    place = write_set("gqa", tmp_path / "hub/nuwa/GQA" / NEW, 7, group=2)
    (place / "README.md").write_text(
        "---\nconfigs:\n"
        + "".join(
            f"- config_name: {name}\n  data_files:\n  - split: testdev\n    path: {name}/testdev-*\n"
            for name in ("testdev_balanced_instructions", "testdev_balanced_images")
        )
        + "---\n"
    )
    for streaming in ("false", "true"):
        options = ("dataset=gqa", "dataset.hub=[nuwa/GQA]", f"dataset.streaming={streaming}")
        found = build(typed(compose(*options), "dataset"))
        assert len(found) == 7 and [found[i].images[0].size for i in (5, 0)] == [picture(i).size for i in (2, 0)]


def test_a_run_records_its_version(versions, tmp_path):
    toy = [override for override in SMALL if not override.startswith("dataset.")]
    options = (*toy, *POPE, f"paths.outputs={tmp_path}", "generation.max_new_tokens=2", "baseline=skip", "limit=3")
    keys = {}
    for revision in (OLD, NEW):
        cfg = compose(*options, f"dataset.revision={revision}", "dataset.streaming=true", "trainer.num_workers=1")
        folder = run_job(cfg)
        result = read_result(folder)
        assert (result["status"], result["n"]) == ("done", 3), result.get("reason")
        assert result["config"]["dataset"]["revision"] == revision and result["data"] == f"nuwa/POPE@{revision}"
        keys[revision] = folder.name
        assert run_key(compose(*options, f"dataset.revision={revision}")) == folder.name  # streaming changes nothing
    assert keys[OLD] != keys[NEW]


# what cannot be had


@pytest.mark.parametrize("streaming", ["false", "true"])
def test_a_revision_that_does_not_exist(streaming, versions):
    with pytest.raises(BenchmarkError) as caught:
        dataset(f"dataset.revision={'c' * 40}", f"dataset.streaming={streaming}")
    text = str(caught.value)
    assert f"revision {'c' * 40}" in text and "nuwa/moved: " in text and "nuwa/never: " in text
    assert f"nuwa/POPE: Revision '{'c' * 40}' doesn't exist for dataset" in text
    assert "dataset.path=<folder of parquet files>" in text


def test_a_split_that_does_not_exist(versions):
    for streaming in ("false", "true"):
        with pytest.raises(BenchmarkError, match=r"split none.*nuwa/POPE: .*test"):
            dataset("dataset.split=none", f"dataset.streaming={streaming}")


def test_without_network_the_cache_serves_its_own_version_only(versions, monkeypatch):
    """``datasets`` itself would give the version that its cache holds for any other."""
    assert len(dataset(f"dataset.revision={OLD}")) == 6
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    for revision in (OLD, "null"):
        found = dataset(f"dataset.revision={revision}")
        assert len(found) == 6 and found.source == f"nuwa/POPE@{OLD}"
    with pytest.raises(BenchmarkError, match=rf"the hub cannot be reached, and the cache holds revision {OLD}"):
        dataset(f"dataset.revision={NEW}")
    with pytest.raises(BenchmarkError, match=r"the hub cannot be reached, which dataset\.streaming=true needs"):
        dataset("dataset.streaming=true")


@pytest.mark.parametrize("streaming", [False, True])
def test_without_network_and_cache(streaming, own_cache):
    with pytest.raises(BenchmarkError) as caught:
        load_rows(["nuwa-tests/no-such-set", "nuwa-tests/nor-this"], None, "test", "0" * 40, streaming=streaming)
    text = str(caught.value)
    assert f"revision {'0' * 40}" in text and "nuwa-tests/no-such-set: " in text and "nuwa-tests/nor-this: " in text
    assert "dataset.path=<folder of parquet files>" in text


def test_files_that_cannot_be_streamed(hub, tmp_path):
    place = tmp_path / "hub/nuwa/POPE" / NEW
    place.mkdir(parents=True)
    (place / "test.jsonl").write_text('{"question": "?"}\n')
    with pytest.raises(BenchmarkError, match=r"not parquet; use dataset\.streaming=false"):
        dataset("dataset.streaming=true")
    (place / "test.jsonl").unlink()
    file = write_parquet(pope(3), place / "data/test")
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(BenchmarkError, match=r"test-00000-of-00001\.parquet is not a whole parquet file"):
        dataset("dataset.streaming=true")


def test_local_copies_need_no_hub(own_cache, tmp_path):
    assert benchmark("pope", write_set("pope", tmp_path / "data")).source == str(tmp_path / "data")
