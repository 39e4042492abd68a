"""Sharing, prefetching and caching save time and change no answer; batches bring together what can share work."""

from __future__ import annotations

import json
import multiprocessing
import threading
import time
from dataclasses import replace

import pytest
import torch
from helpers.jobs import small
from PIL import Image

from nuwa.benchmarks.base import Benchmark
from nuwa.benchmarks.scenes import Scenes
from nuwa.config import build
from nuwa.evaluation import batch_cache
from nuwa.evaluation.batch_cache import BatchesOnce
from nuwa.evaluation.check import check
from nuwa.evaluation.data import Batch, Failure, computing_order
from nuwa.evaluation.features import feature_cache
from nuwa.evaluation.journal import JOURNAL
from nuwa.evaluation.prefetch import Prefetched
from nuwa.evaluation.run import run_job
from nuwa.models.loaded import LoadedModel
from nuwa.pruners import Nuwa
from nuwa.samples import Sample

ASKED = ("dataset.samples=8", "dataset.questions=4", "trainer.batch_size=3", "budget.average=24",
         "generation.max_new_tokens=3", "baseline=skip")  # fmt: skip
PLAIN = ("trainer.share=false", "trainer.prefetch=0", "trainer.cache_gb=0")


def job(folder, *overrides):
    """The journal of a job, as bytes and as rows, and its result."""
    run = run_job(small(folder, *ASKED, *overrides))
    result = json.loads((run / "result.json").read_text())
    assert result["status"] == "done", result.get("traceback")
    text = (run / JOURNAL).read_bytes()
    return text, [json.loads(line) for line in text.splitlines()], result


@pytest.mark.parametrize("pruner", ["none", "visionzip", "nuwa", "random", "fastv"])
def test_a_job_with_all_shortcuts_answers_like_one_without(tmp_path, pruner):
    _, plain, expected = job(tmp_path / "plain", f"pruner={pruner}", *PLAIN)
    _, fast, result = job(tmp_path / "fast", f"pruner={pruner}")
    assert fast == plain
    assert result["metrics"] == expected["metrics"] and result["tokens_per_layer"] == expected["tokens_per_layer"]


def test_the_cache_changes_no_byte_of_a_sweep_and_may_be_deleted(tmp_path):
    def sweep(*overrides):
        return [job(tmp_path, f"pruner.d_thresh={d}", "resume=false", *overrides)[0] for d in (18, 412)]

    without = sweep("trainer.cache_gb=0")
    assert not (tmp_path / ".features").exists()
    cold, warm = sweep(), sweep()
    files = list((tmp_path / ".features").rglob("*.safetensors"))
    assert files and cold == without and warm == without
    for file in files[::2]:
        file.unlink()
    files[1].write_bytes(b"torn")
    assert sweep() == without


def test_points_of_a_sweep_over_positions_decide_once(tmp_path, monkeypatch):
    asked, own = [], Nuwa.prune_vision
    monkeypatch.setattr(
        Nuwa, "prune_vision", lambda self, context, keep: asked.append(context.ids) or own(self, context, keep)
    )
    points = [f"position.strategy={name}" for name in ("perc", "pesp", "rpme")]
    without = [job(tmp_path / "without", point, "trainer.cache_gb=0")[0] for point in points]
    batches = len(asked) // 3
    assert len({*without}) > 1
    asked.clear()
    assert [job(tmp_path / "with", point)[0] for point in points] == without and len(asked) == batches


def test_a_method_whose_file_has_changed_shares_nothing(tmp_path):
    neurons, cfg = (
        tmp_path / "neurons.json",
        small(tmp_path, "pruner=occamtoken", f"pruner.register={tmp_path}/neurons.json"),
    )
    loaded, folders = build(cfg.model), []
    for content in ("[]", "[[1, 2]]", "[]"):
        neurons.write_text(content)
        folders.append(feature_cache(cfg, loaded).folder)
    assert folders[0] == folders[2] != folders[1]


@pytest.fixture(scope="module")
def cached(tmp_path_factory):
    """Outputs with the features of a job."""
    outputs = tmp_path_factory.mktemp("cached")
    job(outputs)
    return outputs


@pytest.mark.parametrize("change", ["model.seed=1", "dataset.seed=1", "model.dtype=bfloat16"])
def test_other_weights_data_or_precision_share_no_features(cached, change):
    before = {path.parent for path in (cached / ".features").rglob("*.safetensors")}
    job(cached, change)
    assert {path.parent for path in (cached / ".features").rglob("*.safetensors")} > before


def test_another_snapshot_of_a_checkpoint_or_another_processor_shares_no_features(tmp_path, monkeypatch):
    cfg = small(tmp_path)
    loaded = build(check(cfg).model)
    folders = [feature_cache(cfg, loaded).folder for _ in range(2)]
    loaded.model.name_or_path = "hub/models--llava/snapshots/f00"
    folders.append(feature_cache(cfg, loaded).folder)
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "older")
    folders.append(feature_cache(cfg, loaded).folder)
    assert folders[0] == folders[1] and len({*folders}) == 3


@pytest.fixture
def encoded(monkeypatch):
    """How many batches were made into tensors, from a process that keeps none."""
    monkeypatch.setattr(batch_cache, "_kept", {})
    counted, encode = [], LoadedModel.encode
    monkeypatch.setattr(
        LoadedModel, "encode", lambda self, samples: counted.append(len(samples)) or encode(self, samples)
    )
    return counted


def test_the_next_job_on_the_same_samples_encodes_none_of_them(tmp_path, encoded):
    points = [f"pruner.d_thresh={d}" for d in (18, 412)]
    without = [job(tmp_path / "a", point, "trainer.cache_gb=0")[0] for point in points]
    assert sum(encoded) == 16
    encoded.clear()
    assert [job(tmp_path / "b", point)[0] for point in points] == without and sum(encoded) == 8
    for other in ("limit=7", "trainer.batch_size=2", "dataset.seed=1", "model.dtype=bfloat16", "trainer.cache_gb=0"):
        encoded.clear()
        text = job(tmp_path / other, points[0], other)[0]
        assert sum(encoded) == (7 if other == "limit=7" else 8)
        assert job(tmp_path / other / "again", points[0], other)[0] == text


def test_a_job_that_goes_on_reads_its_own_samples(tmp_path, encoded):
    whole, rows, _ = job(tmp_path / "a")
    folder = run_job(small(tmp_path / "b", *ASKED))
    lines = whole.splitlines(keepends=True)
    (folder / JOURNAL).write_bytes(b"".join(lines[:3]))
    (folder / "result.json").unlink()
    encoded.clear()
    assert job(tmp_path / "b")[1] == rows and sum(encoded) == 5


def test_batches_are_kept_when_all_were_read_and_fit(monkeypatch):
    monkeypatch.setattr(batch_cache, "_kept", {})
    picture, tensors = Image.new("RGB", (4, 4)), {"pixel_values": torch.zeros(10)}
    sample = Sample("a", "vqa", (picture,), "", None)
    good = Batch(0, [sample], tensors)

    def kept(key, *batches):
        assert list(BatchesOnce(key, batches)) == list(batches)
        return list(BatchesOnce(key, [])) == list(batches)

    assert kept("one", good, good) and list(BatchesOnce("one", [])) == [good, good]
    assert not kept("", good)
    assert not kept("failed", good, Batch(1, [sample, Failure("b", "torn")], tensors))
    assert not kept("unusable", Batch(0, [sample]))
    assert not kept("video", Batch(0, [replace(sample, videos=(None,))], tensors))
    next(iter(BatchesOnce("interrupted", [good, good])))
    assert list(BatchesOnce("interrupted", [good])) == [good]
    monkeypatch.setattr(batch_cache, "LIMIT", 4 * 4 * 3 + 4 * 10)
    assert kept("fits", good) and not kept("large", good, good)


class Worded(Benchmark):
    """Samples with pictures and lengths of question as they are listed."""

    def __init__(self, *known):
        self.known = known

    def __len__(self):
        return len(self.known)

    def sample_id(self, index):
        return str(index)

    def neighbourhood(self, index):
        return self.known[index]

    __getitem__ = score = max_new_tokens = None


def test_order_of_computing():
    assert computing_order(Worded(("a", 9), ("b", 1), ("c", 5)), 3) == [1, 2, 0]  # no picture is shared: by length
    assert computing_order(Worded(("a", 9), ("b", 1), ("a", 5), ("b", 0)), 4) == [2, 0, 3, 1]
    assert computing_order(Worded(("a", 9), ("b", 1), ("a", 5), ("b", 0)), 2) == [1, 0]
    assert computing_order(Scenes(7, questions=3), 7) == [0, 1, 2, 3, 4, 5, 6]


def test_a_scene_with_several_questions():
    alone, several = Scenes(6), Scenes(6, questions=3)
    assert alone[0].images[0].tobytes() == several[0].images[0].tobytes() and alone[0].text == several[0].text
    pictures = [sample.images[0].tobytes() for sample in (several[i] for i in range(6))]
    assert pictures[0] == pictures[1] == pictures[2] != pictures[3] == pictures[5]
    assert [several[i].task for i in range(6)] == ["vqa", "vg"] * 3
    assert several[4].text == Scenes(6, questions=3)[4].text
    with pytest.raises(ValueError, match=r"dataset\.questions=0"):
        Scenes(6, questions=0)


class TestPrefetched:
    """Items in order, made ahead of their use, with their errors."""

    @pytest.mark.parametrize("ahead", [0, 1, 3, 20])
    def test_order_and_end(self, ahead):
        assert list(Prefetched(range(10), lambda x: x * x, ahead)) == [x * x for x in range(10)]
        assert list(Prefetched([], lambda x: x, ahead)) == []

    def test_works_while_the_item_before_is_in_use(self):
        made, second = [], threading.Event()

        def prepare(item):
            made.append(item)
            if item == 2:
                second.set()
            return item

        for item in Prefetched(range(8), prepare, 2):
            if item == 0:
                assert second.wait(5)
                time.sleep(0.05)
                assert made == [0, 1, 2]
                break

    @pytest.mark.parametrize("ahead", [0, 2])
    def test_errors_come_where_the_item_would(self, ahead):
        def source():
            yield from (1, 2)
            raise ValueError("broken")

        seen = []
        with pytest.raises(ValueError, match="broken"):
            for item in Prefetched(source(), lambda x: x, ahead):
                seen.append(item)
        assert seen == [1, 2]

    def test_processes_that_read_ahead_end_well(self):
        """Forked from the thread they would end with 1, which torch takes for a crash if it looks in time."""
        forks = multiprocessing.get_context("fork")

        def source():
            process = forks.Process(target=int)
            process.start()
            yield 1
            process.join()
            yield process.exitcode

        assert list(Prefetched(source(), lambda x: x, 2)) == [1, 0]
