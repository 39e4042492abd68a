"""Damaged, foreign and newer files in a run's folder: named, and nothing else is lost."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.faults import TOY, rows_below

DEEP = "[" * 100_000
RESULT, JOURNAL = "result.json", "predictions.jsonl"


@pytest.fixture(scope="module")
def finished(server, tmp_path_factory):
    """The outputs of a finished run with pictures and times."""
    folder = tmp_path_factory.mktemp("finished")
    outcome = server.run(["launch.py", *TOY, "paths.outputs=out"], folder)
    assert outcome.status == 0, outcome.printed
    return folder / "out"


@pytest.fixture
def run(finished, tmp_path):
    """A copy of the run, whose folder is given."""
    shutil.copytree(finished, tmp_path / "out")
    (folder,) = (tmp_path / "out/main").iterdir()
    return folder


def again(server, folder, *overrides):
    """The same command again."""
    outcome = server.run(["launch.py", *TOY, "paths.outputs=out", *overrides], folder)
    assert not outcome.late and "Traceback" not in outcome.printed, outcome.printed
    return outcome


def changed(**keys) -> Callable[[Path], object]:
    """A result.json with other values of some keys."""

    def damage(file: Path) -> None:
        file.write_text(json.dumps(json.loads(file.read_text()) | keys))

    return damage


def text(content: str | bytes) -> Callable[[Path], object]:
    """A file with another content."""
    return lambda file: file.write_bytes(content.encode() if isinstance(content, str) else content)


def folder(file: Path) -> None:
    file.unlink(missing_ok=True)
    file.mkdir()


def pipe(file: Path) -> None:
    file.unlink(missing_ok=True)
    os.mkfifo(file)


def circle(file: Path) -> None:
    file.unlink(missing_ok=True)
    file.symlink_to(file)


RESULTS = {
    "empty": text(""),
    "torn": text('{"status": "do'),
    "a list": text("[]"),
    "an empty object": text("{}"),
    "null": text("null"),
    "a number": text("1" * 400),
    "deep": text(DEEP),
    "binary": text(bytes(range(256))),
    "done alone": text('{"status": "done"}'),
    "newer": changed(protocol=99),
    "metrics of objects": changed(metrics={"vqa/exact_match": {"value": 1}}),
    "metrics as texts": changed(metrics={"vqa/exact_match": "high"}),
    "metrics as a list": changed(metrics=[1]),
    "config as a list": changed(config=[]),
    "pruner as a text": changed(config={"pruner": "nuwa"}),
    "budget as a text": changed(config={"budget": {"average": "64"}}),
    "an unknown status": changed(status="weird"),
    "a text for n": changed(n="many"),
    "half a retention": changed(retention={"vqa/exact_match": {"value": 1.0}}),
    "half an interval": changed(intervals={"vqa/exact_match": [0.5]}),
    "a pipe": pipe,
    "a link to itself": circle,
}


QUICK = ("torn", "an empty object", "deep", "newer", "metrics as texts", "a pipe", "a link to itself")
"""Damage that is run by default; the table below holds all of them."""


@pytest.mark.parametrize(
    "damage", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.faults) for name in RESULTS]
)
def test_a_damaged_result_is_named_and_summed_up_again(damage, server, run, tmp_path):
    journal, file = (run / JOURNAL).read_bytes(), run / RESULT
    whole = json.loads(file.read_text())
    RESULTS[damage](file)
    assert f"unreadable: out/main/{run.name}/result.json" in again(server, tmp_path).printed
    assert json.loads(file.read_text())["metrics"] == whole["metrics"] and (run / JOURNAL).read_bytes() == journal


def test_one_damaged_result_leaves_the_table_of_the_others(server, run, tmp_path):
    for number, damage in enumerate(RESULTS.values()):
        shutil.copytree(run, run.parent / f"copy{number}")
        damage(run.parent / f"copy{number}/{RESULT}")
    for form in ("table", "csv", "markdown"):
        report = server.run(["-m", "nuwa.report", "out", "--full", "--format", form], tmp_path)
        assert report.status == 0 and not report.late, report.printed
        assert report.printed.count("unreadable: ") >= len(RESULTS) and "done" in report.printed
    assert "unreadable" in server.run(["-m", "nuwa.report", "out", "--expected", "table5"], tmp_path).printed


def edited(**keys) -> Callable[[str], str]:
    """A row with other values; of None, without the key."""

    def edit(row: str) -> str:
        changed = json.loads(row) | keys
        return json.dumps({key: value for key, value in changed.items() if value is not None})

    return edit


ROWS = {
    "a number": lambda row: "5",
    "a list": lambda row: "[]",
    "null": lambda row: "null",
    "deep": lambda row: DEEP,
    "garbage": lambda row: "{broken",
    "no batch": edited(batch=None),
    "no id": edited(id=None),
    "no scores": edited(scores=None),
    "no prediction": edited(prediction=None),
    "scores as texts": edited(scores={"vqa/exact_match": "high"}),
    "scores without end": lambda row: row.replace('"scores": {', '"scores": {"vqa/x": 1e999, '),
    "scores too large": lambda row: row.replace('"scores": {', f'"scores": {{"vqa/x": {"1" * 400}, '),
    "an unknown status": edited(status="fine"),
    "a number as id": edited(id=5),
    "a foreign id": edited(id="scene-99"),
    "kept as a text": edited(kept="all"),
}


@pytest.mark.parametrize("damage", ROWS)
def test_a_damaged_row_is_named_by_every_tool_and_nothing_is_overwritten(damage, server, run, tmp_path):
    (run / RESULT).rename(tmp_path / RESULT)
    first, *others = (run / JOURNAL).read_text().splitlines()
    (run / JOURNAL).write_text("\n".join([ROWS[damage](first), *others]) + "\n")
    journal = (run / JOURNAL).read_bytes()
    place = f"unreadable: out/main/{run.name}/{JOURNAL}, line 1: "
    outcome = again(server, tmp_path)
    assert outcome.status == 1 and place in outcome.printed and "resume=false" in outcome.printed, outcome.printed
    assert (run / JOURNAL).read_bytes() == journal
    if damage not in ("a number", "deep", "scores as texts"):
        return
    (tmp_path / RESULT).rename(run / RESULT)
    tools = (
        ("compare", "out/main/*", "out/main/*"),
        ("failures", "out/main/*", "out/main/*"),
        ("pictures", "out/main/*"),
    )
    for name, *runs in tools:
        found = [one.replace("*", run.name) for one in runs]
        outcome = server.run(["-m", f"nuwa.report.{name}", *found], tmp_path)
        assert outcome.status == 1 and f"error: {place}" in outcome.printed, outcome.printed


@pytest.mark.parametrize("kind", [folder, pipe, circle])
def test_a_journal_that_is_no_file(kind, server, run, tmp_path):
    (run / RESULT).unlink()
    kind(run / JOURNAL)
    outcome = again(server, tmp_path)
    assert outcome.status == 1 and f"unreadable: out/main/{run.name}/{JOURNAL}: " in outcome.printed
    report = server.run(["-m", "nuwa.report", "out"], tmp_path)
    assert report.status == 0 and "Traceback" not in report.printed and not report.late, report.printed
    compared = server.run(["-m", "nuwa.report.compare", str(run), str(run)], tmp_path)
    assert compared.status == 1 and "Traceback" not in compared.printed and not compared.late, compared.printed


RARE = (b"[]\n", b"\xff\xfe\n", b"\x00" * 90, f"{DEEP}\n".encode(), b'{"first": 1}\n')


@pytest.mark.parametrize(
    "content", [b"5\n", None, *(pytest.param(content, marks=pytest.mark.faults) for content in RARE)]
)
def test_times_are_no_reason_to_fail(content, server, run, tmp_path):
    (run / RESULT).unlink()
    times = run / "timings.jsonl"
    whole = times.read_bytes()
    folder(times) if content is None else times.write_bytes(content + whole)
    rows = (run / JOURNAL).read_text().splitlines(keepends=True)
    (run / JOURNAL).write_text("".join(rows[: len(rows) // 2]))
    outcome = again(server, tmp_path, "trainer.batch_size=1")
    assert outcome.status == 0 and rows_below(tmp_path) == len(rows), outcome.printed
    assert ("a time was not noted" in outcome.printed) == (content is None)


def test_pictures_are_no_reason_to_fail(server, tmp_path, finished):
    (name,) = (path.name for path in (finished / "main").iterdir())
    (tmp_path / "out/main" / name).mkdir(parents=True)
    (tmp_path / "out/main" / name / "pictures").write_text("in the way")
    outcome = again(server, tmp_path, "callbacks.pictures=2")
    assert outcome.status == 0 and "was not drawn (FileExistsError" in outcome.printed and rows_below(tmp_path) == 2


@pytest.mark.parametrize("name", [".lock", RESULT])
def test_a_folder_in_the_place_of_a_file_is_named(name, server, run, tmp_path):
    (run / RESULT).unlink()
    folder(run / name)
    outcome = again(server, tmp_path)
    assert outcome.status == 1 and f"{run.name}: failed: " in outcome.printed and name in outcome.printed


def test_a_file_in_the_place_of_a_run_costs_that_run_alone(server, tmp_path, finished):
    (name,) = (path.name for path in (finished / "main").iterdir())
    (tmp_path / "out/main").mkdir(parents=True)
    (tmp_path / "out/main" / name).write_text("in the way")
    outcome = again(server, tmp_path)
    assert outcome.status == 1 and f"out/main/{name}: failed: [Errno 17] File exists" in outcome.printed
    outcome = again(server, tmp_path, "seed=0,1", "-m")
    assert outcome.status == 1 and f"out/main/{name}: failed: " in outcome.printed and rows_below(tmp_path) == 2
    assert not (tmp_path / "out/main/launch.log").exists()


@pytest.mark.parametrize("kind", [folder, lambda file: file.symlink_to("/dev/full")])
@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("launch.log", ()),
        ("csv", ("logger=csv",)),
        pytest.param("tensorboard", ("logger=tensorboard",), marks=pytest.mark.faults),
        pytest.param("wandb", ("logger=wandb",), marks=pytest.mark.faults),
    ],
)
def test_logs_and_loggers_are_no_reason_to_fail(name, overrides, kind, server, tmp_path, finished):
    run = tmp_path / "out/main" / next((finished / "main").iterdir()).name
    run.mkdir(parents=True)
    kind(run / name)
    outcome = again(server, tmp_path, *overrides)
    assert outcome.status == 0 and rows_below(tmp_path) == 2 and "Logging error" not in outcome.printed


def test_a_damaged_unpruned_run_is_computed_again(server, tmp_path):
    sweep = ("pruner=random,divprune", "budget.average=16", "baseline=auto", "-m")
    whole = again(server, tmp_path, *sweep)
    assert whole.status == 0, whole.printed
    results = {file.parent.name: json.loads(file.read_text()) for file in tmp_path.glob(f"out/main/*/{RESULT}")}
    (unpruned,) = (key for key, content in results.items() if content["method"] == "none")
    for key in results:
        file = tmp_path / "out/main" / key / RESULT
        file.write_text("[1]") if key == unpruned else file.unlink()
    outcome = again(server, tmp_path, *sweep)
    assert outcome.status == 0 and f"unreadable: out/main/{unpruned}/{RESULT}" in outcome.printed, outcome.printed
    for key, content in results.items():
        found = json.loads((tmp_path / "out/main" / key / RESULT).read_text())
        assert (found["metrics"], found.get("retention")) == (content["metrics"], content.get("retention"))
