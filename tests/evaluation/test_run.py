"""One job in a process: what it writes, what it skips, and how it fails."""

import json
import logging
import os
import signal
import weakref
from pathlib import Path

import pytest
import torch
from helpers.jobs import SMALL, compose, small
from PIL import Image

from nuwa.benchmarks import local as local_benchmark
from nuwa.config import run_key
from nuwa.evaluation import compute as compute_module
from nuwa.evaluation import model_cache
from nuwa.evaluation.journal import JOURNAL, read_rows
from nuwa.evaluation.module import Evaluation
from nuwa.evaluation.result import read_result, write_result
from nuwa.evaluation.run import run_job
from nuwa.evaluation.runs import Run
from nuwa.samples import PassingError

EARLIER = json.loads(Path(__file__).with_name("result_e562ab8.json").read_text())


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished job with its unpruned run."""
    outputs = tmp_path_factory.mktemp("outputs")
    return run_job(small(outputs, "callbacks=default", "callbacks.progress=false", "probe=memory"))


def test_result_carries_what_the_design_promises(done):
    result = read_result(done)
    assert (result["status"], result["n"], result["n_failed"]) == ("done", 6, 0)
    assert {"vqa/exact_match", "vg/acc@0.5", "vg/miou"} <= set(result["metrics"]) == set(result["standard_errors"])
    assert result["tokens_per_layer"] == [28, 28, 4, 4]
    assert (result["tokens_entering"], result["tokens_leaving"], result["tokens_per_image"]) == (16, 10, 64)
    assert result["llm_tflops"] > 0 and result["metric_mflops"] > 0
    assert result["kv_cache_bytes"] == 2 * 64 * 32 * 4
    assert result["timings"]["seconds_per_sample"] > 0 and result["timings"]["peak_memory_mb"] > 0
    assert result["environment"]["packages"]["torch"].startswith(torch.__version__.split("+")[0])
    assert result["environment"]["attention"] == "sdpa" and result["environment"]["device"].startswith("cpu")
    assert result["run_key"] == done.name and result["config"]["pruner"]["d_thresh"] == 280
    assert result["retention"] == {} or all(0 <= kept["low"] <= kept["high"] for kept in result["retention"].values())


def test_the_unpruned_run_lies_beside_it(done):
    baseline = read_result(done.parent / read_result(done)["baseline"])
    assert (baseline["status"], baseline["method"], baseline["tokens_entering"]) == ("done", "none", 64)


def test_rows_carry_what_a_reader_needs(done):
    row = read_rows(done / JOURNAL)[0]
    assert {"id", "task", "prompt", "target", "prediction", "scores", "kept", "status"} <= set(row)
    assert row["kept"] == [[[0, 28], [2, 4]]]


def test_pictures_of_the_first_samples(done):
    pictures = sorted((done / "pictures").glob("*.png"))
    assert len(pictures) == 4
    assert Image.open(pictures[0]).width > Image.open(pictures[0]).height  # two stages, side by side


def test_a_finished_job_is_skipped_without_loading(done, monkeypatch):
    monkeypatch.setattr(compute_module, "compute", lambda *args: pytest.fail("computed again"))
    before = (done / "result.json").stat().st_mtime_ns
    assert run_job(small(done.parent.parent)) == done
    assert (done / "result.json").stat().st_mtime_ns == before


def test_resume_false_computes_again(done):
    before = (done / "result.json").stat().st_mtime_ns
    assert run_job(small(done.parent.parent, "resume=false")) == done
    assert (done / "result.json").stat().st_mtime_ns != before
    assert len(read_rows(done / JOURNAL)) == 6


def test_the_old_result_goes_before_a_run_is_computed_again(tmp_path, monkeypatch):
    """Killed in the middle, it is unfinished."""

    def killed(cfg, folder, *rest):
        raise KeyboardInterrupt

    monkeypatch.setattr(compute_module, "compute", killed)
    cfg = small(tmp_path, "resume=false", "baseline=skip")
    folder = tmp_path / "main" / run_key(cfg)
    folder.mkdir(parents=True)
    write_result(folder, {"status": "done"})
    with pytest.raises(KeyboardInterrupt):
        run_job(cfg)
    assert Run.read(folder).status == "unfinished"


def test_resume_false_goes_on_with_the_unpruned_run(tmp_path, monkeypatch):
    """It is shared by all points of a sweep, which would otherwise compute it once each."""
    resumed = {}

    def compute(cfg, folder, *rest):
        resumed[cfg.pruner._target_.rpartition(".")[-1]] = cfg.resume
        return {"status": "done"}

    monkeypatch.setattr(compute_module, "compute", compute)
    run_job(small(tmp_path, "resume=false"))
    assert resumed == {"KeepAll": True, "Nuwa": False}


def store_earlier(folder, **changes):
    """What a `small` job had found at e562ab8."""
    folder.mkdir(parents=True)
    write_result(folder, EARLIER | changes)
    return folder


def test_the_result_of_an_earlier_version_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(compute_module, "compute", lambda *args: pytest.fail("computed again"))
    folder = store_earlier(tmp_path / "main" / EARLIER["run_key"])
    assert run_job(small(tmp_path)) == folder


def test_the_result_of_an_earlier_protocol_is_named(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(compute_module, "compute", lambda *args: {"status": "done"})
    same = store_earlier(tmp_path / "main" / "same", protocol=0)
    store_earlier(tmp_path / "main" / "copy")
    store_earlier(tmp_path / "main" / "other", protocol=0, config=EARLIER["config"] | {"seed": 1})
    with caplog.at_level(logging.INFO, "nuwa"):
        folder = run_job(small(tmp_path, "baseline=skip"))
    (named,) = [record.getMessage() for record in caplog.records if "again" in record.getMessage()]
    assert named == f"{folder}: computed again, because {same} is of protocol 0"


def test_batch_size_does_not_change_answers(done, tmp_path):
    other = run_job(small(tmp_path, "trainer.batch_size=5", "baseline=skip"))
    one, two = ({row["id"]: row["prediction"] for row in read_rows(folder / JOURNAL)} for folder in (done, other))
    assert other.name == done.name and one == two


def test_sampling_depends_on_the_seed_and_not_on_what_ran_before(tmp_path):
    answers = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.manual_seed(len(answers))
        folder = run_job(small(tmp_path / name, "generation=sample", "baseline=skip", "limit=2", f"seed={seed}"))
        answers.append([row["prediction"] for row in read_rows(folder / JOURNAL)])
    assert answers[0] == answers[1] != answers[2]


def test_calibration_and_median_ids_change_answers_and_have_a_run_of_their_own(tmp_path):
    found = []
    for choice in ("position=native", "position=median", "calibration=restore", "calibration=size"):
        folder = run_job(small(tmp_path, "baseline=skip", "pruner=visionzip", "position=pesp", choice))
        result, rows = read_result(folder), read_rows(folder / JOURNAL)
        assert result["status"] == "done" and len(rows) == 6
        found.append((folder.name, [row["prediction"] for row in rows]))
    assert len({name for name, _ in found}) == 4
    folder = run_job(small(tmp_path, "baseline=skip", "pruner=visionzip", "coordinates=grid", "coordinates.share=0.3"))
    assert read_result(folder)["status"] == "done" and read_result(folder)["tokens_entering"] == 16
    assert read_rows(folder / JOURNAL)[0]["kept"] == [[[0, 16]]]
    assert read_result(run_job(small(tmp_path, "calibration=size", "pruner=random")))["status"] == "refused"


def test_a_budget_out_of_reach_is_a_result(tmp_path):
    result = read_result(run_job(small(tmp_path, "budget.average=80")))
    assert result["status"] == "unreachable" and "budget.average=80" in result["reason"]


@pytest.mark.parametrize("override", ["pruner.d_thresh=0", "pruner.d_thresh=abc"])
def test_a_bad_point_leaves_its_reason(tmp_path, override, caplog):
    with caplog.at_level(logging.ERROR):
        result = read_result(run_job(small(tmp_path, override)))
    assert result["status"] == "failed" and "pruner.d_thresh" in result["reason"]
    assert len(caplog.records) == 1 and "Traceback" not in caplog.text


def test_a_crash_leaves_its_reason_and_the_next_call_resumes(tmp_path, monkeypatch):
    generate = Evaluation._generate

    def crash(self, *args):
        if len(self.journal) >= 2:
            raise RuntimeError("out of memory")
        return generate(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Evaluation, "_generate", crash)
        folder = run_job(small(tmp_path, "baseline=skip"))
    result = read_result(folder)
    assert result["status"] == "failed" and result["reason"] == "RuntimeError: out of memory" and result["traceback"]
    assert len(read_rows(folder / JOURNAL)) == 2
    assert read_result(run_job(small(tmp_path, "baseline=skip")))["status"] == "done"


@pytest.fixture
def pictures(tmp_path):
    """A folder of two pictures of which one cannot be read."""
    Image.new("RGB", (40, 30), "red").save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    rows = [{"image": f"{name}.png", "question": "Red?", "answer": "yes"} for name in ("bad", "good")]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [f"dataset.path={tmp_path}"]


def local(outputs, pictures, *overrides):
    return small(outputs, "baseline=skip", "dataset=local", "dataset.samples=null", *pictures, *overrides)


def test_an_unreadable_picture_is_recorded(tmp_path, pictures):
    folder = run_job(local(tmp_path / "out", pictures))
    result = read_result(folder)
    assert (result["status"], result["n"], result["n_failed"]) == ("done", 1, 1)
    failed = next(row for row in read_rows(folder / JOURNAL) if row["status"] == "failed")
    assert "bad.png" in failed["reason"]


def test_a_picture_that_was_away_is_tried_again_by_the_same_command(tmp_path, pictures, monkeypatch, caplog):
    """And what cannot pass is not: the line of the skipped run counts it."""
    rows = [{"id": str(n), "image": f"{n}.png", "question": "Red?", "answer": "yes"} for n in range(5)]
    for number in range(5):
        Image.new("RGB", (40, 30), (50 * number, 0, 0)).save(tmp_path / f"{number}.png")
    with (tmp_path / "data.jsonl").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    whole = {row["id"]: row for row in read_rows(run_job(local(tmp_path / "whole", pictures)) / JOURNAL)}
    read = local_benchmark.read_image

    def away(folder, name):
        if name in ("1.png", "3.png"):
            raise PassingError(f"image {name} does not exist in {folder}")
        return read(folder, name)

    with monkeypatch.context() as patch:
        patch.setattr(local_benchmark, "read_image", away)
        folder = run_job(local(tmp_path / "out", pictures))
    found = read_result(folder)
    assert (found["n"], found["n_failed"], found["n_passing"]) == (4, 3, 2)
    assert run_job(local(tmp_path / "out", pictures)) == folder
    found = read_result(folder)
    assert (found["n"], found["n_failed"], found["n_passing"]) == (6, 1, 0)
    again = {row["id"]: row for row in read_rows(folder / JOURNAL)}
    assert again.keys() == whole.keys()
    for name, row in again.items():
        assert (row["status"], row.get("prediction")) == (whole[name]["status"], whole[name].get("prediction"))
    with caplog.at_level(logging.INFO, "nuwa"):
        run_job(local(tmp_path / "out", pictures))
    assert f"{folder}: finished before, skipped; 1 of 7 samples failed (" in caplog.text


def test_an_unreadable_picture_can_stop_the_run(tmp_path, pictures):
    result = read_result(run_job(local(tmp_path / "out", pictures, "on_error=raise")))
    assert result["status"] == "failed" and "bad.png" in result["reason"]


def test_the_unpruned_run_comes_when_it_is_asked_for(tmp_path):
    folder = run_job(small(tmp_path, "baseline=skip"))
    assert "baseline" not in read_result(folder)
    journal = (folder / JOURNAL).read_bytes()
    assert run_job(small(tmp_path)) == folder
    result = read_result(folder)
    assert read_result(folder.parent / result["baseline"])["method"] == "none" and "retention" in result
    assert (folder / JOURNAL).read_bytes() == journal


def test_the_probe_measures_again_if_it_is_asked_otherwise(tmp_path):
    probe = ("baseline=skip", "probe=speed", "probe.warmup=0", "probe.repeats=1", "probe.new_tokens=2")
    folder = run_job(small(tmp_path, *probe))
    assert [entry["batch"] for entry in read_result(folder)["speed"]] == [1]
    assert run_job(small(tmp_path, *probe, "probe.batch_sizes=[1,2]")) == folder
    assert [entry["batch"] for entry in read_result(folder)["speed"]] == [1, 2]


@pytest.mark.parametrize(("image", "measured"), [("missing.png", True), ([], True), (None, False)])
def test_the_probe_takes_samples_that_it_can_use(image, measured, tmp_path):
    Image.new("RGB", (60, 40)).save(tmp_path / "a.png")
    pictures = ["a.png", image] if measured else [[]]
    lines = [{"image": picture, "question": "?", "answer": "yes"} for picture in reversed(pictures)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    probe = ("probe=speed", "probe.warmup=0", "probe.repeats=1", "probe.new_tokens=2", "probe.batch_sizes=[2]")
    data = [option for option in SMALL if not option.startswith("dataset.")]
    data += ["dataset=local", f"dataset.path={tmp_path}", f"paths.outputs={tmp_path / 'out'}"]
    result = read_result(run_job(compose(*data, *probe, "pruner=none", "budget=full")))
    assert result["status"] == "done" and result["metrics"]
    assert ("speed" in result) == measured
    assert measured or result["speed_error"] == "SampleError: no sample that can be read has a picture or a video"


def test_there_is_never_room_for_two_models(monkeypatch):
    class Model:
        pass

    built, alive = [], []

    def build(options):
        alive.extend(known() is not None for known in built)
        model = Model()
        built.append(weakref.ref(model))
        return model

    monkeypatch.setattr(model_cache, "_loaded", {})
    monkeypatch.setattr(model_cache, "build", build)
    for options in ({}, {}, {"a": 1}):
        model_cache.load_once(options)
    assert alive == [False] and len(built) == 2


def test_a_job_that_is_terminated_says_so(tmp_path, monkeypatch):
    """Also in its last batch, where Lightning takes no notice of it."""
    step = Evaluation.test_step

    def terminated(self, batch, batch_idx):
        step(self, batch, batch_idx)
        if len(self.journal) == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Evaluation, "test_step", terminated)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as left:
        run_job(small(tmp_path, "baseline=skip"))
    assert left.value.code == 143 and signal.getsignal(signal.SIGTERM) == before
