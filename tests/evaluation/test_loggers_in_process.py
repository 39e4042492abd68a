"""What loggers are told, with stand-ins for the loggers themselves."""

import json
import os
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from helpers.jobs import small
from PIL import Image

from nuwa.config import plain
from nuwa.evaluation import features, loggers
from nuwa.evaluation.loggers import flat_summary, log_result, run_logger, wandb_run
from nuwa.evaluation.unharmed import unharmed
from nuwa.evaluation.wandb_media import predictions
from nuwa.pictures.drawing import file_name

RESULT = {
    "n": 3, "n_failed": 1, "tokens_entering": 9.0, "llm_tflops": 2.0, "model": "m", "metrics": {"t/m": 0.5},
    "retention": {"t/m": {"value": 0.9, "low": 0.8}, "t/parsed": {"value": 1.0}},
    "timings": {"job_seconds": 4.0, "seconds_per_sample": None, "load_seconds": 7e-5, "batch_size": 8},
    "environment": {"python": "3"}, "run_key": "key",
}  # fmt: skip


def test_the_few_numbers_that_people_compare():
    numbers = {"n": 3, "n_failed": 1, "tokens_entering": 9.0, "llm_tflops": 2.0, "t/m": 0.5}
    assert flat_summary(RESULT) == numbers | {"retention/t/m": 0.9, "timings/job_seconds": 4.0}
    assert flat_summary({"metrics": {}, "timings": {}}) == {}


@pytest.mark.parametrize(("tags", "kept"), [("[]", []), ("[a,b]", ["a", "b"])])
def test_a_wandb_run_is_named_after_its_choices(tmp_path, monkeypatch, tags, kept):
    told = {}

    @contextmanager
    def run(options, folder, **about):
        told.update(about, project=options.project, folder=folder)
        yield None

    monkeypatch.setattr(loggers, "wandb_run", run)
    cfg = small(tmp_path, "logger=wandb", f"tags={tags}", "pruner.d_thresh=412")
    with run_logger(cfg, tmp_path, "0123456789ab") as logger:
        assert logger is None
    words = {"method": "nuwa", "budget": "16 tokens", "position": "pesp", "dataset": "scenes"}
    assert told.pop("config") == {**words, "model": "llava_1_5_random", "options": plain(cfg)}
    assert told == {
        "id": "0123456789ab", "name": "nuwa 16 pesp d_thresh=412 scenes", "group": "main", "job_type": "eval",
        "tags": ["nuwa", "16 tokens", "pesp", "scenes", "llava_1_5_random", *kept],
        "project": "nuwa", "folder": tmp_path,
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["csv", "tensorboard"])
def test_files_are_finished_as_the_run_went(tmp_path, monkeypatch, kind):
    ends, cfg = [], small(tmp_path, f"logger={kind}")
    for maker in (loggers.CSVLogger, loggers.TensorBoardLogger):
        monkeypatch.setattr(maker, "finalize", lambda self, status: ends.append((type(self), self.name, status)))
    with run_logger(cfg, tmp_path, "key") as logger:
        assert logger.log_dir.rstrip("/") == str(tmp_path / kind)
    with pytest.raises(KeyError), run_logger(cfg, tmp_path, "key"):
        raise KeyError
    assert ends == [(type(logger), kind, "success"), (type(logger), kind, "failed")]


def test_no_logger(tmp_path):
    cfg = small(tmp_path)
    with run_logger(cfg, tmp_path, "key") as logger:
        assert logger is None
    log_result(None, cfg, {}, [], tmp_path)


def test_an_error_is_one_line_of_warning(caplog):
    with unharmed("logger: nothing was done"):
        raise ValueError("first\nsecond")
    (record,) = caplog.records
    assert record.getMessage() == "logger: nothing was done (ValueError: first); the answers stand"


class Wandb(SimpleNamespace):
    """Stands in for the package; ``refuses`` are the modes in which no run starts, ``holds`` whether it keeps one."""

    def __init__(self, refuses=(), holds=False):
        super().__init__(refuses=refuses, run=object() if holds else None, calls=[])

    def Settings(self, **options):
        return options

    def init(self, **options):
        self.calls.append((options["mode"], options.get("resume"), os.environ.get(loggers.STAGING)))
        self.options = options
        if options["mode"] in self.refuses:
            raise OSError("no")
        return options["mode"]

    def finish(self, exit_code):
        self.calls.append(exit_code)

    def teardown(self):
        self.calls.append("teardown")


@pytest.mark.parametrize(
    ("offline", "stand_in", "started", "calls"),
    [
        ("true", {}, "offline", ["offline", 0]),
        ("false", {}, "online", ["online", 0]),
        ("false", {"refuses": ["online"]}, "offline", ["online", "teardown", "offline", 0]),
        ("true", {"refuses": ["offline"]}, None, ["offline", "teardown", 0]),
        ("true", {"holds": True}, "offline", ["offline", 0, "teardown"]),
    ],
)
def test_how_a_wandb_run_starts(tmp_path, monkeypatch, offline, stand_in, started, calls):
    wandb = Wandb(**stand_in)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.delenv(loggers.STAGING, raising=False)
    options = small(tmp_path, "logger=wandb", f"logger.offline={offline}").logger
    with wandb_run(options, tmp_path, id="key", tags=None) as run:
        assert run == started
    assert [call[0] if isinstance(call, tuple) else call for call in wandb.calls] == calls
    for mode, resume, staging in (call for call in wandb.calls if isinstance(call, tuple)):
        assert resume == ("allow" if mode == "online" else None) and staging == str(tmp_path / "wandb")
    assert loggers.STAGING not in os.environ
    assert wandb.options["settings"] == {
        "silent": True, "console": "off", "x_disable_stats": True, "init_timeout": loggers.START_SECONDS
    }  # fmt: skip
    assert (wandb.options["project"], wandb.options["dir"], wandb.options["id"]) == ("nuwa", tmp_path, "key")
    with pytest.raises(KeyError), wandb_run(options, tmp_path, id="key"):
        raise KeyError
    assert 1 in wandb.calls


def test_what_wandb_gets_to_show(tmp_path, monkeypatch):
    logged, artifacts = [], []

    class Artifact:
        def __init__(self, *named, metadata):
            artifacts.append([named, metadata])

        def add_file(self, path):
            artifacts[-1].append(path)

    fake = SimpleNamespace(
        Table=lambda columns, cells: (columns, cells),
        Image=lambda file, caption: (file, caption),
        Artifact=Artifact,
    )
    monkeypatch.setitem(sys.modules, "wandb", fake)
    cfg = small(tmp_path, "logger=wandb", "callbacks=default", "callbacks.pictures=1", "logger.table_rows=1")
    run = SimpleNamespace(log=logged.append, log_artifact=lambda artifact: logged.append(type(artifact)))
    rows = [
        {"id": "a", "target": ["ü", "y"], "kept": [[[0, 9], [4, 3]]], "scores": {"t/m": 1, "t/n": 0.5}, "status": "ok"},
        {"id": "b"},
    ]
    loggers._log_media(run, cfg, RESULT | {"config": {}}, rows, tmp_path)
    media, kind = logged
    assert kind is Artifact and "kept_tokens" not in media
    columns, (cells,) = media["predictions"]
    assert dict(zip(columns, cells, strict=True)) == {
        "picture": None, "id": "a", "task": "", "prompt": "", "target": "ü / y", "prediction": "", "correct": True,
        "t/m": 1.0, "t/n": 0.5, "kept": 3, "status": "ok", "reason": "",
    }  # fmt: skip
    assert media["cells"][1] and json.dumps(media["cells"][0])
    assert artifacts == [
        [("predictions-key", "predictions"), flat_summary(RESULT), str(tmp_path / "predictions.jsonl")]
    ]
    (tmp_path / "pictures").mkdir()
    drawn = file_name("a") + "-0"
    for name, size in ((drawn, (30, 20)), ("z", (10, 40))):
        Image.new("RGB", size, "red").save(tmp_path / "pictures" / f"{name}.png")
    cfg.callbacks.pictures = 2
    loggers._log_media(run, cfg, RESULT | {"config": {}}, rows, tmp_path)
    shown = logged[2]["kept_tokens"]
    assert [caption for _, caption in shown] == [drawn, "z"]
    assert {sheet.size for sheet, _ in shown} == {(30, 40)}  # of one size, or W&B distorts them
    assert shown[1][0].getpixel((0, 39)) == (255, 0, 0) and shown[1][0].getpixel((29, 0)) == (255, 255, 255)
    assert logged[2]["predictions"][1][0][0] == shown[0]
    cfg.callbacks.pictures = 1
    loggers._log_media(run, cfg, RESULT | {"config": {}}, rows, tmp_path)
    assert logged[4]["kept_tokens"] == [(str(tmp_path / "pictures" / f"{drawn}.png"), drawn)]  # the file as it is


def test_a_score_is_right_wrong_or_neither():
    rows = [{"id": str(value), "scores": {"m": value}} for value in (0.0, 1.0, 0.3)] + [{"id": "failed"}]
    assert [row["correct"] for row in predictions(rows)] == [False, True, None, None]


@pytest.mark.parametrize(
    ("asked", "device", "gigabytes"),
    [("null", "cpu", 4), ("null", "cuda", None), ("0", "cpu", None), ("0.5", "cuda", 0.5), ("2", "cpu", 2)],
)
def test_how_much_space_features_may_take(tmp_path, monkeypatch, asked, device, gigabytes):
    monkeypatch.setattr(features, "environment", lambda model: {"git_commit": os.urandom(4), "python": "3"})
    monkeypatch.setattr(features, "FeatureCache", lambda *given: given)
    loaded = SimpleNamespace(device=SimpleNamespace(type=device), model=SimpleNamespace(name_or_path="x"))
    cfg = small(tmp_path, f"trainer.cache_gb={asked}")
    found = features.feature_cache(cfg, loaded)
    assert found is None if gigabytes is None else (found[0], found[2]) == (tmp_path / ".features", gigabytes * 2**30)
    assert found == features.feature_cache(cfg, loaded)  # whatever the commit
