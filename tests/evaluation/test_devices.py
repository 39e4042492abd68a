"""Where a job runs, which folders are read before a model loads, and who is told of a refusal."""

import os
from types import SimpleNamespace

import pytest
from helpers.jobs import compose, small

from nuwa.config import ConfigError, normalised, run_key
from nuwa.evaluation import check as checks
from nuwa.evaluation import first
from nuwa.evaluation.check import check
from nuwa.evaluation.first import CheckFirst, check_outputs
from nuwa.evaluation.result import write_result
from nuwa.pruning.schedules import Schedule

AUTO = ("trainer.accelerator=auto",)
GPU = ("trainer.accelerator=gpu",)
CPU = ("trainer.accelerator=cpu",)
TWO = ("trainer.devices=2",)
ALL = ("trainer=ddp",)


@pytest.mark.parametrize(
    ("overrides", "asked", "gpus", "device"),
    [
        (AUTO, "auto", 2, "auto"),
        (GPU, "auto", 2, "cuda"),
        (GPU, "cuda:1", 2, "cuda:1"),
        (CPU, "auto", 2, "cpu"),
        (AUTO + TWO, "cuda:1", 2, "cuda:1"),
        (AUTO + TWO, "auto", 2, "cuda:0"),
        (AUTO + TWO, "auto", 0, "cpu"),
        (AUTO + ALL, "auto", 1, "cuda:0"),
        (GPU + TWO, "auto", 1, None),
        (GPU + TWO, "auto", 3, "cuda:0"),
        (CPU + TWO, "auto", 0, "cpu"),
    ],
)
def test_the_device_of_a_model(overrides, asked, gpus, device, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpus > 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    ordered = sorted(overrides, key=lambda option: option.startswith("trainer."))
    cfg = small(tmp_path, *ordered)
    if device is None:
        with pytest.raises(ConfigError, match=r"trainer\.devices=2: this machine has 1 GPUs"):
            checks._device(cfg, asked)
    else:
        assert checks._device(cfg, asked) == device


@pytest.mark.parametrize("path", ["package:no/such", "./no", "/no", "~/no", "no", "no/such/folder", "there/here"])
def test_folders_are_checked(path, tmp_path, monkeypatch):
    (tmp_path / "there" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"model\.path"):
        checks._adapter({"path": path})


def test_what_lies_on_the_hub_is_not():
    assert checks._adapter({"path": "llava-hf/llava-1.5-7b-hf"}) is None and checks._adapter({}) is None


def refusing(message):
    class Refuses:
        def __init__(self, size: int = 1):
            raise ValueError(message)

    return Refuses


@pytest.mark.parametrize(
    ("message", "said"),
    [("a bad day", "dataset: a bad day"), ("dataset.size=1: too small", "dataset.size=1: too small")],
)
def test_a_refusal_names_its_group(message, said, monkeypatch):
    monkeypatch.setattr(checks, "build", lambda options, **provided: refusing(message)())
    with pytest.raises(ValueError) as refused:
        checks._build({}, "dataset")
    assert str(refused.value) == said


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("blocking.source=nobody", r"blocking\.source=nobody: expected one of "),
        ("blocking.layers=5-2", r"blocking\.layers"),
        ("position.strategy=x", r"position\.strategy=x: expected one of native, "),
        ("limit=${oc.env:NOTHING_OF_THE_KIND,0}", "limit=0: must be greater"),
    ],
)
def test_refusals(override, said, tmp_path):
    source = () if override.startswith("blocking.source") else ("blocking.source=text",)
    with pytest.raises(ConfigError, match=said):
        check(small(tmp_path, *source, override))


def test_what_is_allowed(tmp_path):
    assert check(small(tmp_path, "blocking.source=text", "blocking.layers=1/2")).pruner.name == "nuwa"
    cfg = small(tmp_path, "seed=3", "limit=${seed}")
    assert check(cfg).pruner.seed == 3
    assert normalised(cfg) is cfg
    assert check(small(tmp_path, *CPU, *TWO)).model["device"] == "cpu"
    plain = normalised(small(tmp_path, "pruner=none"))
    assert plain.budget.average is None and plain.position.strategy == "native"


@pytest.fixture
def called(monkeypatch):
    """Which checks Hydra's callback made, in their order."""
    calls = []
    for name in ("check_outputs", "check_ranges", "check", "check_sweep", "start"):
        where = checks if name == "check" else first
        monkeypatch.setattr(where, name, lambda config, name=name: calls.append(name))
    return calls


def test_one_job_is_checked_before_its_folder_is_made(called, tmp_path):
    cfg = small(tmp_path, "baseline=skip")
    CheckFirst().on_run_start(cfg)
    assert called == ["check_outputs", "check_ranges", "check", "start"]
    CheckFirst().on_multirun_start(cfg)
    assert called[4:] == ["check_outputs", "check_sweep", "start"]


def test_a_finished_job_is_not_checked_in_full(called, tmp_path):
    cfg = small(tmp_path, "baseline=skip")
    folder = tmp_path / cfg.name / run_key(cfg)
    folder.mkdir(parents=True)
    write_result(folder, {"status": "done", "metrics": {}, "n": 1, "config": {}})
    CheckFirst().on_run_start(cfg)
    assert called == ["check_outputs", "check_ranges", "start"]
    cfg.resume = False
    CheckFirst().on_run_start(cfg)
    assert called[3:] == ["check_outputs", "check_ranges", "check", "start"]


def test_a_job_whose_files_cannot_be_read_is_refused_by_its_check(called, tmp_path, monkeypatch):
    def unreadable(cfg):
        raise OSError("no such disk")

    monkeypatch.setattr(first, "run_key", unreadable)
    CheckFirst().on_run_start(small(tmp_path))
    assert "check" in called


def test_a_refusal_ends_the_program(called, monkeypatch, capsys, tmp_path):
    def refuse(config):
        raise ConfigError("seed=x: no")

    monkeypatch.setattr(checks, "check", refuse)
    with pytest.raises(SystemExit) as left:
        CheckFirst().on_run_start(small(tmp_path))
    assert left.value.code == 1 and capsys.readouterr().err == "error: seed=x: no\n"
    assert called == ["check_outputs", "check_ranges"]


def test_the_folder_of_runs_is_made_and_tried(tmp_path, monkeypatch):
    cfg = compose(f"paths.outputs={tmp_path / 'deep' / 'outputs'}")
    assert check_outputs(cfg) == check_outputs(cfg) == tmp_path / "deep" / "outputs" / "main"
    assert not list((tmp_path / "deep" / "outputs" / "main").iterdir())

    def full(**options):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with pytest.raises(ConfigError, match=r"cannot write to .*main \(No space left on device\)"):
        check_outputs(cfg)


@pytest.mark.parametrize(("fixed", "layers"), [(True, 4), (False, 4)])
def test_a_budget_is_planned_where_an_image_has_a_fixed_count(fixed, layers, tmp_path, monkeypatch):
    planned = []
    shape = SimpleNamespace(image_tokens=64 if fixed else None, layers=layers, attention=None)
    monkeypatch.setattr(
        checks,
        "_adapter",
        lambda model: SimpleNamespace(tower=None, shape=shape, grid=None, check_deepstack=lambda kind: None),
    )
    pruner = type(check.__globals__["build"]({"_target_": "nuwa.pruners.none.KeepAll"}))
    monkeypatch.setattr(pruner, "check_tower", lambda self, tower: planned.append(tower))
    monkeypatch.setattr(pruner, "schedule", lambda self, *sizes: planned.append(sizes) or Schedule(64))
    check(small(tmp_path, "pruner=none"))
    assert planned == ([None, (64, 4)] if fixed else [None])
