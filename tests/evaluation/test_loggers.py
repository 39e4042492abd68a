"""Every logger gets the numbers. W&B works offline, can be synced, and never costs a result."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import wandb
from helpers.jobs import ROOT, SMALL, small
from helpers.wandb_files import read_run
from helpers.wandb_server import wandb_server
from PIL import Image

from nuwa.evaluation import callbacks, loggers, unharmed
from nuwa.evaluation.journal import JOURNAL, read_rows
from nuwa.evaluation.result import read_result
from nuwa.evaluation.run import run_job

WANDB = ("logger=wandb", "callbacks.pictures=1", "limit=2")
KEY = "a" * 40
SWEEP = "pruner.d_thresh=18,280"


def offline_runs(folder):
    return sorted(Path(folder).glob("**/wandb/offline-run-*"))


def test_csv_and_tensorboard(tmp_path):
    for logger, file in (("csv", "csv/metrics.csv"), ("tensorboard", "tensorboard/events*")):
        folder = run_job(small(tmp_path / logger, f"logger={logger}", "baseline=skip", "limit=2"))
        assert read_result(folder)["status"] == "done"
        assert list(folder.glob(file))
    assert "vg/acc@0.5" in (tmp_path / "csv" / "main" / folder.name / "csv" / "metrics.csv").read_text()


@pytest.mark.parametrize("logger", ["csv", "tensorboard"])
def test_files_that_cannot_be_finished_cost_a_warning(logger, tmp_path, monkeypatch, caplog):
    def full(self, status):
        raise OSError("No space left on device")

    kinds = {"csv": loggers.CSVLogger, "tensorboard": loggers.TensorBoardLogger}
    monkeypatch.setattr(kinds[logger], "finalize", full)
    folder = run_job(small(tmp_path, f"logger={logger}", "baseline=skip", "limit=2"))
    assert read_result(folder)["status"] == "done" and "No space left on device" in caplog.text


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """The outputs of a sweep of two points and its unpruned run, logged offline by another process."""
    outputs = tmp_path_factory.mktemp("outputs")
    given = [*SMALL, *WANDB, "callbacks.progress=true", SWEEP, f"paths.outputs={outputs}"]
    command = [sys.executable, str(ROOT / "launch.py"), "-m", *given]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")}
    environment |= {"PYTHONPATH": str(ROOT), "HOME": str(outputs / "home")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{outputs}/main") and "unpruned run first" not in done.stdout  # tables alone
    assert "Launching 2 jobs" in done.stderr and "2/2" in done.stderr
    assert "Images sizes" not in done.stderr
    assert not (outputs / "home" / ".local").exists()  # wandb keeps its copies below the runs
    return outputs


def test_an_offline_run_has_everything(sweep):
    runs = [read_run(path) for path in offline_runs(sweep) if "report" not in path.name]
    assert len(runs) == 3
    for logged in runs:
        folder = logged.folder.parent.parent
        result, rows = read_result(folder), read_rows(folder / JOURNAL)
        assert (logged.run.run_id, logged.run.run_group, logged.run.job_type) == (folder.name, "main", "eval")
        assert filled(logged.config["options"]) == filled(result["config"]) and logged.config["run_key"] == folder.name
        assert logged.config["environment"]["git_commit"] == result["environment"]["git_commit"]
        for name, value in result["metrics"].items():
            assert logged.summary[name] == value
        assert logged.summary["llm_tflops"] == result["llm_tflops"] and logged.exit_code == 0
        cells = {cell["metric"]: cell for cell in logged.table("cells")}
        assert {name: cell["value"] for name, cell in cells.items()} == result["metrics"]
        assert all(cell["tokens"] == result["tokens_entering"] for cell in cells.values())
        said = logged.table("predictions")
        assert [row["prediction"] for row in said] == [row["prediction"] for row in rows]
        for row, shown in zip(rows, said, strict=True):
            assert {name: shown[name] for name in row["scores"]} == row["scores"]
            assert shown["correct"] == (next(iter(row["scores"].values())) == 1)
        assert logged.run.display_name.startswith(f"{result['method']} ") and result["method"] in logged.run.tags
        words = {name: logged.config[name] for name in ("method", "position", "dataset", "model")}
        assert words == {name: result[name] for name in words}  # the strategy in use, never native
        (picture,) = logged.pictures("kept_tokens")
        assert Image.open(picture).tobytes() == Image.open(next(folder.glob("pictures/*.png"))).tobytes()
        assert [row["id"] for row in said if row["picture"]] == [rows[0]["id"]]
        kept = logged.artifacts[f"predictions-{folder.name}"]
        assert kept[JOURNAL].read_bytes() == (folder / JOURNAL).read_bytes()


def test_a_sweep_ends_with_a_report_in_its_group(sweep):
    (path,) = (sweep / "main" / "wandb").glob("offline-run-*")
    report = read_run(path)
    assert (report.run.run_group, report.run.job_type, report.run.display_name) == ("main", "report", "main-report")
    cells = report.table("cells")
    assert {(cell["method"], cell["options"]) for cell in cells} == {
        ("none", ""),
        ("nuwa", ""),
        ("nuwa", "d_thresh=18"),
    }
    for cell in cells:
        assert cell["value"] == read_result(sweep / "main" / cell["run"])["metrics"][cell["metric"]]
    assert report.config["methods"] == ["none", "nuwa"] and report.config["positions"] == ["pesp"]
    (chart,) = (name for name in report.summary if name.startswith("charts/tflops"))
    assert "Nüwa, PESP" in json.loads(report.pictures(chart)[0].read_text())["data"][1]["name"]
    assert any(name.startswith("accuracy_methods") and report.pictures(name)[0].is_file() for name in report.summary)


def filled(value):
    """What W&B sends of a config: groups that are empty get lost."""
    return {key: filled(part) for key, part in value.items() if part != {}} if isinstance(value, dict) else value


def test_sync_uploads_the_offline_folders(sweep):
    """To a server on this machine, which stands in for W&B's."""
    runs = offline_runs(sweep)
    with wandb_server() as received:
        environment = os.environ | {"WANDB_BASE_URL": received.url, "WANDB_API_KEY": KEY, "HOME": str(sweep / "home")}
        command = [sys.executable, "-m", "wandb", "sync", *map(str, runs)]
        done = subprocess.run(command, cwd=sweep, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert all(list(path.glob("*.synced")) for path in runs) and not received.unknown
    assert set(received.finished.values()) == {0} and len(received.finished) == len(runs) == 4
    for path in runs:
        logged = read_run(path)
        sent = received.runs[logged.run.run_id]
        assert sent["groupName"] == "main" and all(
            sent["config"][name]["value"] == filled(value) for name, value in logged.config.items() if name != "_wandb"
        )
        for file in (path / "files" / "media").rglob("*.*"):
            name = f"{logged.run.run_id}/{file.relative_to(path / 'files')}"
            assert received.files[name] == file.read_bytes()
        for name, entries in logged.artifacts.items():
            assert received.artifacts[name]["state"] == "COMMITTED"
            assert all(received.files[f"{name}/{entry}"] == kept.read_bytes() for entry, kept in entries.items())


def test_what_a_killed_run_left_goes(tmp_path):
    """A file without records, at which ``wandb sync`` would stop; runs of others stay."""
    cfg = small(tmp_path, *WANDB)
    for number, key in enumerate(("mine", "mine", "other")):
        left = tmp_path / "wandb" / f"offline-run-20261121_12000{number}-{key}"
        left.mkdir(parents=True)
        (left / f"run-{key}.wandb").touch()
    with loggers.run_logger(cfg, tmp_path, "mine"):
        pass
    mine, other = sorted(offline_runs(tmp_path), key=lambda path: path.name.endswith("other"))
    assert read_run(mine).exit_code == 0 and other.name == "offline-run-20261121_120002-other"


def test_copies_are_staged_below_each_run(tmp_path, monkeypatch):
    monkeypatch.delenv(loggers.STAGING, raising=False)
    staged = []
    for name in ("one", "two"):
        with loggers._staging_in(tmp_path / name):
            staged.append(os.environ[loggers.STAGING])
    assert staged == [str(tmp_path / name / "wandb") for name in ("one", "two")]
    assert loggers.STAGING not in os.environ


def test_copies_are_staged_where_a_person_says(tmp_path, monkeypatch):
    monkeypatch.setenv(loggers.STAGING, str(tmp_path / "mine"))
    with loggers._staging_in(tmp_path):
        assert os.environ[loggers.STAGING] == str(tmp_path / "mine")
    assert os.environ[loggers.STAGING] == str(tmp_path / "mine")


@pytest.fixture
def online(monkeypatch, tmp_path):
    """Options of an online run, and what takes them to an address."""
    wandb.teardown()  # it reads the environment once
    for name in [name for name in os.environ if name.startswith("WANDB")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    yield lambda url: monkeypatch.setenv("WANDB_BASE_URL", url)
    wandb.teardown()


def test_online(online, tmp_path):
    with wandb_server() as received:
        online(received.url)
        folder = run_job(small(tmp_path, *WANDB, "logger.offline=false", "baseline=skip"))
    assert read_result(folder)["status"] == "done" and not offline_runs(tmp_path)
    assert received.finished == {folder.name: 0} and not received.unknown
    assert received.files[f"predictions-{folder.name}/{JOURNAL}"] == (folder / JOURNAL).read_bytes()


def test_a_server_out_of_reach_costs_a_warning(online, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(loggers, "START_SECONDS", 1)
    online("http://127.0.0.1:9")
    folder = run_job(small(tmp_path, *WANDB, "logger.offline=false", "baseline=skip"))
    assert read_result(folder)["status"] == "done"
    (warning,) = [record.message for record in caplog.records if record.name == unharmed.__name__]
    assert warning.startswith("logger: no online run (CommError: ")
    (path,) = offline_runs(tmp_path)
    assert read_run(path).summary["n"] == 2


def test_a_service_that_dies_costs_a_warning(online, tmp_path, caplog, monkeypatch):
    """wandb's own process is killed in the middle of a run; the next run is logged again."""

    def kill(callback, trainer, module, *args):
        for service in services():
            os.kill(service, signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.KeptTokenPictures, "on_test_batch_end", kill)
        folder = run_job(small(tmp_path, *WANDB, "baseline=skip"))
    assert read_result(folder)["status"] == "done" and len(read_rows(folder / JOURNAL)) == 2
    assert "logger: the result was not logged" in caplog.text
    again = run_job(small(tmp_path, *WANDB, "baseline=skip", "pruner.d_thresh=18"))
    (path,) = offline_runs(again)
    assert read_run(path).exit_code == 0


def services():
    """Processes of wandb that this process has started."""
    children = {int(pid) for file in Path("/proc/self/task").glob("*/children") for pid in file.read_text().split()}
    return [pid for pid in children if "wandb-core" in Path(f"/proc/{pid}/comm").read_text()]


def test_a_run_that_stops_is_marked_as_failed(tmp_path):
    cfg, mode = small(tmp_path, *WANDB), os.environ.get("WANDB_MODE")
    with pytest.raises(KeyboardInterrupt), loggers.run_logger(cfg, tmp_path, "key"):
        raise KeyboardInterrupt
    (path,) = offline_runs(tmp_path)
    assert read_run(path).exit_code == 1 and os.environ.get("WANDB_MODE") == mode
