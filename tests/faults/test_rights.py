"""Files that may not be read or written, for an ordinary user: named, and nothing that was computed is lost."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.faults import TOY, Case, rows_below
from helpers.jobs import ROOT
from helpers.rights import renounce
from PIL import Image

pytestmark = pytest.mark.faults
RUN = ("launch.py", *TOY, "paths.outputs={folder}/out")
ROWS = ("launch.py", *(part for part in TOY if "dataset." not in part), "dataset=local", "paths.outputs={folder}/out")
ROWS += ("dataset.path={folder}/data/data.jsonl",)

COPIED = (*(part for part in ROWS if not part.startswith("model")), "model.path={folder}/model")


@pytest.fixture(scope="module")
def finished(server, tmp_path_factory):
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("finished")
    assert server.run(["launch.py", *TOY, "paths.outputs=out"], folder).status == 0
    (found,) = (folder / "out/main").iterdir()
    return found


def made(path: str, mode: int) -> Callable[[Path], object]:
    """A folder with this mode."""

    def prepare(folder: Path) -> None:
        (folder / path).mkdir(parents=True)
        (folder / path).chmod(mode)

    return prepare


def data(folder: Path) -> None:
    """Two rows with a picture each."""
    (folder / "data").mkdir()
    for name in "ab":
        Image.new("RGB", (32, 24), "red").save(folder / f"data/{name}.png")
    rows = [{"id": name, "image": f"{name}.png", "question": "what ?", "answer": "x"} for name in "ab"]
    (folder / "data/data.jsonl").write_text("\n".join(map(json.dumps, rows)))


def sealed(name: str) -> Callable[[Path], object]:
    """Rows and a checkpoint, of which one file may not be read."""

    def prepare(folder: Path) -> None:
        data(folder)
        shutil.copytree(ROOT / "nuwa/tiny/llava", folder / "model")
        (folder / name).chmod(0)

    return prepare


def names_the_picture(folder: Path) -> None:
    (journal,) = folder.glob("out/main/*/predictions.jsonl")
    assert "a.png cannot be read" in journal.read_text() and "Permission denied" in journal.read_text()


def ordinary(name: str, arguments: tuple[str, ...], prepare: Callable[[Path], object], *says: str, **others) -> Case:
    return Case(name, arguments, says=says, prepare=prepare, ordinary=True, **others)


CASES = [
    ordinary("outputs", RUN, made("out", 0o555), "paths.outputs=", "cannot write to", "Permission denied"),
    ordinary("name", RUN, made("out/main", 0o555), "paths.outputs=", "cannot write to", "Permission denied"),
    ordinary("no way in", RUN, made("out", 0o000), "paths.outputs=", "Permission denied"),
    ordinary("a folder of rows", ROWS, made("data", 0o000), "error: dataset", "data.jsonl", "Permission denied"),
    ordinary("rows", ROWS, sealed("data/data.jsonl"), "data.jsonl", "Permission denied"),
    ordinary("a picture", ROWS, sealed("data/a.png"), "(1 failed)", status=0, rows=2, after=names_the_picture),
    *(
        ordinary(name, COPIED, sealed(f"model/{name}"), name, "Permission denied")
        for name in ("config.json", "tokenizer.json", "processor_config.json", "generation_config.json")
    ),
    ordinary("weights", COPIED, sealed("model/model.safetensors"), "model.safetensors", "Permission denied"),
    ordinary(
        "cache", ROWS, lambda folder: (data(folder), made("cache", 0o555)(folder)), status=0, rows=2,
        environment={"XDG_CACHE_HOME": "cache"},
    ),
    ordinary(
        "home", ROWS, lambda folder: (data(folder), made("home", 0o000)(folder)), status=0, rows=2,
        environment={"HOME": "home", "XDG_CACHE_HOME": ""},
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_may_not_be_read_or_written(case, server, tmp_path):
    try:
        case.check(server, tmp_path)
    finally:
        for path in [tmp_path / "out", *tmp_path.iterdir()]:
            if path.is_dir():
                path.chmod(0o755)


@pytest.mark.parametrize(
    ("name", "mode", "rows", "status", "says"),
    [
        ("predictions.jsonl", 0o444, 1, 1, "predictions.jsonl: Permission denied"),
        ("predictions.jsonl", 0o000, 1, 1, "predictions.jsonl: Permission denied"),
        ("result.json", 0o000, 2, 0, "result.json: Permission denied"),
        (".lock", 0o000, 1, 1, ".lock"),
        (".lock", 0o000, 2, 0, "finished before, skipped"),
        (".", 0o555, 1, 1, "Permission denied"),
        (".", 0o555, 2, 0, "finished before, skipped"),
        (".", 0o000, 2, 1, "Permission denied"),
    ],
)
def test_a_run_that_is_there(name, mode, rows, status, says, server, finished, tmp_path):
    """``rows`` of its two samples are answered; all of them survive, and with the rights back the command goes on."""
    run = tmp_path / "out/main" / finished.name
    shutil.copytree(finished, run)
    if rows == 1:
        journal = run / "predictions.jsonl"
        journal.write_text(
            journal.read_text().splitlines(keepends=True)[0].replace('"batch_end": false', '"batch_end": true')
        )
        (run / "result.json").unlink()
    (run / name).chmod(mode)
    command = ["launch.py", *TOY, "paths.outputs=out"]
    outcome = server.run(command, tmp_path, ordinary=True)
    assert outcome.status == status and says in outcome.printed and "Traceback" not in outcome.printed, outcome.printed
    (run / name).chmod(0o755)
    assert rows_below(tmp_path) >= rows
    again = server.run(command, tmp_path, ordinary=True)
    assert again.status == 0 and rows_below(tmp_path) == 2, again.printed


@pytest.mark.parametrize("mode", [0o555, 0o000])
def test_results_of_others_are_read_and_shown(mode, server, finished, tmp_path):
    run = tmp_path / "out/main" / finished.name
    shutil.copytree(finished, run)
    run.chmod(mode)
    run.parent.chmod(0o555)
    outcome = server.run(["-m", "nuwa.report", "out"], tmp_path, ordinary=True)
    for folder in (run.parent, run):
        folder.chmod(0o755)
    assert "Traceback" not in outcome.printed, outcome.printed
    assert ("Permission denied" in outcome.printed) is (mode == 0), outcome.printed


def test_site_packages_that_may_not_be_written(tmp_path):
    """The files lie as a wheel puts them, and nothing is written beside them."""
    package = tmp_path / "site/nuwa"
    shutil.copytree(ROOT / "nuwa", package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "conf", package / "conf")
    for path in [*package.rglob("*"), package, package.parent]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    (tmp_path / "work").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "nuwa.launch", *TOY, "paths.outputs=out"],
        cwd=tmp_path / "work",
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path / "work"), "PYTHONPATH": str(tmp_path / "site")},
        preexec_fn=renounce,
        capture_output=True,
        text=True,
    )
    try:
        assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
        assert rows_below(tmp_path / "work") == 2 and not list(package.rglob("__pycache__"))
    finally:
        for path in [package.parent, package, *package.rglob("*")]:
            path.chmod(0o755)


def test_less_memory_than_the_model_needs(server, tmp_path):
    """So many bytes more than the process has when it starts."""
    pages = int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[0])
    command = ["launch.py", *TOY, "model.hidden_size=4096", "model.layers=16", "paths.outputs=out"]
    outcome = server.run(command, tmp_path, limits={"RLIMIT_AS": pages * 4096 + 2**30})
    assert outcome.status == 1 and "Traceback" not in outcome.printed, outcome.printed
    assert "not enough memory; try a smaller trainer.batch_size" in outcome.printed, outcome.printed
    assert outcome.megabytes < 3000


def test_a_limit_on_the_size_of_files(server, tmp_path):
    """The rows that fit are safe, and without the limit the same command goes on."""
    command = ["launch.py", *TOY, "dataset.samples=60", "paths.outputs=out"]
    outcome = server.run(command, tmp_path, limits={"RLIMIT_FSIZE": 8192})
    assert outcome.status == 1 and "File too large" in outcome.printed and "are safe" in outcome.printed, (
        outcome.printed
    )
    assert 0 < rows_below(tmp_path) < 60
    assert server.run(command, tmp_path).status == 0 and rows_below(tmp_path) == 60
