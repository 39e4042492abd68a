"""What a job asks of Lightning, and the sums that it writes down."""

import json
import logging
import math
from types import SimpleNamespace

import pytest
import torch
from helpers.jobs import small

from nuwa.evaluation import answering, compute
from nuwa.evaluation.check import check
from nuwa.evaluation.journal import JOURNAL, Journal, JournalError
from nuwa.evaluation.model_cache import load_once
from nuwa.evaluation.processes import Processes


@pytest.fixture
def asked(monkeypatch):
    """What the trainers of a test were given; they compute nothing."""
    calls = []

    class Trainer:
        def __init__(self, **options):
            calls.append(SimpleNamespace(options=options))

        def test(self, module, **options):
            calls[-1].module, calls[-1].test = module, options

    monkeypatch.setattr(answering, "Trainer", Trainer)
    return calls


def computed(tmp_path, *overrides, processes=None):
    """A job as far as its trainer."""
    cfg = small(tmp_path, "baseline=skip", *overrides)
    return compute.compute(cfg, tmp_path, check(cfg), None, processes or Processes())


def test_the_trainer_is_quiet_and_alone(tmp_path, asked):
    speakers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    for speaker in speakers:
        speaker.setLevel(logging.INFO)
    with pytest.raises(JournalError, match="stopped after 0 of 6 samples"):
        computed(tmp_path, "trainer.num_workers=1")
    assert [speaker.level for speaker in speakers] == [logging.ERROR] * 2
    (call,) = asked
    assert len(call.options.pop("plugins")) == len(call.options.pop("callbacks")) == 1
    assert call.options == {
        "accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False,
        "enable_checkpointing": False, "enable_model_summary": False, "default_root_dir": tmp_path,
    }  # fmt: skip
    data = call.test.pop("datamodule")
    assert call.test == {"verbose": False} and len(data.loader.dataset) == 6 and data.loader.num_workers == 1
    assert (data.batch_size, data.record, data.rank, data.size, data.ahead) == (2, True, 0, 1, 2)
    module = call.module
    assert module.journal.path == tmp_path / JOURNAL and module.record and module.seed == 0
    assert module.generation == {"do_sample": False, "num_beams": 1, "max_new_tokens": None}
    with pytest.raises(JournalError):
        computed(tmp_path, "on_error=raise", "generation=sample", "seed=3")
    assert not asked[1].module.record and not asked[1].test["datamodule"].record and asked[1].module.seed == 3
    assert {"temperature", "top_p"} < asked[1].module.generation.keys()


@pytest.mark.parametrize(("device", "place"), [("cuda", 0), ("cuda:1", 1)])
def test_on_a_gpu_the_trainer_uses_that_of_the_model(tmp_path, asked, monkeypatch, device, place):
    kind = type(load_once(check(small(tmp_path)).model))
    monkeypatch.setattr(kind, "device", property(lambda loaded: torch.device(device)))
    with pytest.raises(JournalError):
        computed(tmp_path)
    assert (asked[0].options["accelerator"], asked[0].options["devices"]) == ("gpu", [place])


@pytest.mark.parametrize(
    ("overrides", "shared"),
    [((), True), (("trainer.share=false",), False), (("blocking.source=text", "blocking.layers=1/2"), False)],
)
def test_prompts_are_shared_where_nothing_is_blocked(tmp_path, asked, monkeypatch, overrides, shared):
    told, prune = [], answering.prune
    monkeypatch.setattr(answering, "prune", lambda *given, **options: told.append(options) or prune(*given, **options))
    with pytest.raises(JournalError):
        computed(tmp_path, *overrides)
    assert [options["share"] for options in told] == [shared]


def test_each_of_several_processes_has_a_part_of_its_own(tmp_path, asked, monkeypatch):
    monkeypatch.setattr(Processes, "_gather", lambda self, value: [value] * self.size)
    assert computed(tmp_path, processes=Processes(1, 2, 1, 2)) == {"status": "done"}
    with pytest.raises(JournalError):
        computed(tmp_path, processes=Processes(0, 2, 0, 2))
    assert [call.module.journal.path.name for call in asked] == ["predictions.1.jsonl", "predictions.0.jsonl"]
    assert [call.test["datamodule"].rank for call in asked] == [1, 0]
    assert [len(call.options["callbacks"]) for call in asked] == [0, 1]


def test_samples_that_are_done_are_not_asked_again(tmp_path, asked):
    names = [check(small(tmp_path)).benchmark.sample_id(number) for number in range(6)]
    journal = Journal(tmp_path / JOURNAL, tmp_path.name)
    done = {"task": "vqa", "status": "failed", "reason": "torn", "batch_end": True, "scores": {}}
    journal.append([{"id": name, "batch": number, **done} for number, name in enumerate(names[:5])])
    with pytest.raises(JournalError, match="stopped after 5 of 6"):
        computed(tmp_path, "callbacks.progress=true")
    known = asked[0].test["datamodule"].loader.dataset.done
    assert known == {name: {"task": "vqa", "status": "failed"} for name in names[:5]}
    _, bar = asked[0].options["callbacks"]
    assert bar.progress.tasks[0].total == 6
    journal.append([{"id": names[5], "batch": 5, **done}])
    with pytest.raises(JournalError, match="none of the 6 samples could be used; the first: torn"):
        computed(tmp_path)
    assert len(asked) == 1
    for name in ("predictions.0.jsonl", "timings.jsonl"):
        (tmp_path / name).write_text("")
    with pytest.raises(JournalError, match="stopped after 0 of 6"):
        computed(tmp_path, "resume=false")
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == []


@pytest.mark.parametrize(("rank", "size", "label", "total"), [(0, 1, "nuwa key", 5), (0, 2, "nuwa key 1/2", 3)])
def test_the_bar_counts_the_share_of_the_lead(tmp_path, rank, size, label, total):
    cfg = small(tmp_path, "callbacks=default")
    journal, parts = Journal(tmp_path / JOURNAL, "key"), check(cfg)
    numbers, pictures, bar = answering._callbacks(cfg, parts, journal, 5, Processes(rank, size), logger=object())
    assert (bar.progress.tasks[0].description, bar.progress.tasks[0].total, numbers.total) == (label, total, total)
    assert pictures.folder.parent == tmp_path and pictures.left == {True: 2, False: 2}
    assert answering._callbacks(cfg, parts, journal, 5, Processes(1, 2), logger=None) == []
    assert len(answering._callbacks(cfg, parts, journal, 5, Processes(0, 1), logger=None)) == 2


def test_peak_memory(monkeypatch):
    monkeypatch.setattr("resource.getrusage", lambda who: SimpleNamespace(ru_maxrss=3072))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert compute._peak_memory() == {"peak_memory_mb": 3.0}
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.max_memory_allocated", lambda: 5 * 1024 * 1024)
    assert compute._peak_memory() == {"peak_memory_mb": 3.0, "peak_gpu_memory_mb": 5.0}


def test_timings_of_a_job(tmp_path, monkeypatch):
    cfg = small(tmp_path, "baseline=skip", "dataset.samples=2")
    outcome = compute.compute(cfg, tmp_path, check(cfg), None, Processes())
    timings = outcome["timings"]
    lines = [json.loads(line) for line in (tmp_path / "timings.jsonl").read_text().splitlines()]
    assert timings["answering_seconds"] == pytest.approx(math.fsum(line["seconds"] for line in lines))
    assert timings["seconds_per_sample"] == pytest.approx(timings["answering_seconds"] / 2)
    assert 0 <= timings["load_seconds"] < timings["job_seconds"] < 300
    assert "peak_memory_mb" not in timings and (timings["batch_size"], timings["processes"]) == (2, 1)
    assert (outcome["n"], outcome["n_failed"], outcome["status"]) == (2, 0, "done")
    assert "baseline" not in outcome and "speed" not in outcome
    (tmp_path / "timings.jsonl").unlink()
    again = compute.compute(
        small(tmp_path, "probe=memory", "dataset.samples=2"), tmp_path, check(cfg), tmp_path, Processes()
    )
    assert again["timings"]["seconds_per_sample"] is None and again["timings"]["peak_memory_mb"] > 1
    assert again["baseline"] == tmp_path.name and all(kept["value"] == 1.0 for kept in again["retention"].values())
