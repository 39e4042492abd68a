"""Every logger gets the numbers; W&B works offline, gives every job its own run and leaves nothing behind."""

import os

import pytest
from jobs import small

from nuwa.evaluation.result import read_result
from nuwa.evaluation.run import run_job


def test_csv_and_tensorboard(tmp_path):
    for logger, file in (("csv", "csv/metrics.csv"), ("tensorboard", "tensorboard/events*")):
        folder = run_job(small(tmp_path / logger, f"logger={logger}", "baseline=skip", "limit=2"))
        assert read_result(folder)["status"] == "done"
        assert list(folder.glob(file))
    assert "vg/acc@0.5" in (tmp_path / "csv" / "main" / folder.name / "csv" / "metrics.csv").read_text()


def test_wandb_offline(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    overrides = ("logger=wandb", "callbacks.pictures=1", "limit=2")
    folder = run_job(small(tmp_path, *overrides))  # the unpruned run and this one, in one process
    assert read_result(folder)["status"] == "done"
    runs = list(tmp_path.glob("main/*/wandb/offline-run-*"))
    assert {run.name.rsplit("-", 1)[-1] for run in runs} == {run.parent.parent.name for run in runs}
    assert len(runs) == 2 and wandb.run is None and "WANDB_MODE" not in os.environ
    media = [file.name for file in folder.glob("wandb/offline-run-*/files/media/**/*") if file.is_file()]
    assert any(name.endswith(".png") for name in media) and any("predictions" in name for name in media)
