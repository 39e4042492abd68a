"""Results, configs and pictures of other people are data: nothing in them is run, imported or obeyed."""

import json

import pytest
from helpers.faults import TOY, Case, launch, rows_below
from PIL import Image

EVIL = "from pathlib import Path\nPath('PWN').touch()\nclass X:\n    name = 'evil'\n"
OURS = {"pruner": "nuwa.pruners.none.KeepAll", "dataset": "nuwa.benchmarks.mmvet.MMVet"}
FOREIGN = (
    "os.system",
    "subprocess.getoutput",
    "evil.X",
    "nuwa.command.os.system",
    "nuwa..files",
    "nuwa",
    "builtins.exec",
)


def result(folder, **config):
    """A finished run of somebody else's, and a module that leaves a trace when it is imported."""
    (folder / "evil.py").write_text(EVIL)
    run = folder / "their/run"
    run.mkdir(parents=True)
    (run / "predictions.jsonl").write_text("")
    content = {"status": "done", "method": "none", "n": 1, "metrics": {"vqa/exact_match": 1.0}, "config": config}
    (run / "result.json").write_text(json.dumps(content))


def theirs(group, target):
    """What `result` gets: a config whose ``group`` names ``target``."""
    names = OURS | {group: target}
    return {key: {"_target_": name, "command": "touch PWN"} for key, name in names.items()}


def untouched(folder):
    assert not (folder / "PWN").exists(), "code of the data was run"


def reading(name, group, target, *command, status, says=()):
    return Case(
        f"{name} of {group} {target}",
        ("-m", *command),
        status=status,
        says=says,
        prepare=lambda folder: result(folder, **theirs(group, target)),
        after=untouched,
    )


NAMED = dict.fromkeys(("dataset", "model"), "Error resolving interpolation '${dataset}_${model}'")
"""Groups that name prompts (``conf/asked``): without them Hydra composes nothing, and so nothing is built."""
JUDGE = ("nuwa.judge", "their", "--url", "http://127.0.0.1:9/v1", "--model", "m")
CASES = [
    *(reading("report", "pruner", target, "nuwa.report", "their", status=0) for target in FOREIGN),
    *(reading("csv", "dataset", target, "nuwa.report", "their", "--format", "csv", status=0) for target in FOREIGN[:3]),
    *(
        reading("pictures", group, target, "nuwa.report.pictures", "their/run", status=1, says=("error: ",))
        for group in ("pruner", "dataset")
        for target in FOREIGN
    ),
    *(reading("judge", "dataset", target, *JUDGE, status=1, says=("no finished MM-Vet run",)) for target in FOREIGN),
    *(
        Case(
            f"{group} {target}",
            ("launch.py", "logger=none", f"~{group}", f"+{group}._target_={target}", f"+{group}.command='touch PWN'"),
            says=(NAMED.get(group, f"{group}._target_={target}: "),),
            prepare=result,
            after=untouched,
        )
        for group in ("pruner", "dataset", "model")
        for target in FOREIGN
    ),
    *(
        launch(f"{group} {target}", f"{group}._target_={target}", says=(f"{group}._target_={target}: {says}",))
        for group, target, says in (
            ("pruner", "nuwa.pruners.none.Nothing", "cannot be imported"),
            ("pruner", "nuwa.pruners.none.dataclass", "is no pruner"),
            ("pruner", "nuwa.benchmarks.scenes.Scenes", "is no pruner"),
            ("dataset", "nuwa.pruners.none.KeepAll", "is no dataset"),
            ("model", "nuwa.judge.main", "is no model"),
        )
    ),
    *(
        launch(f"name {name!r}", f"name={name}", says=("name=",), after=lambda folder: inside(folder))
        for name in ("../x", "../../x", "/tmp/nuwa-outside", ".", "", "a/../../x", "..")
    ),
    launch("no outputs", "paths.outputs=", says=("paths.outputs=",)),
    launch("a name with a folder", "name=a/b", status=0, rows=2),
]


def inside(folder):
    """Nothing was written outside the outputs."""
    assert {path.name for path in folder.iterdir()} <= {"out", "printed.txt"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_nothing_foreign_is_run(case, server, tmp_path):
    case.check(server, tmp_path)


@pytest.mark.parametrize("key", ["hydra.callbacks.x", "hydra.launcher", "hydra.sweeper"])
def test_an_experiment_of_somebody_else(key, server, tmp_path):
    """Hydra's own groups go through Hydra's list."""
    (tmp_path / "conf/experiment").mkdir(parents=True)
    *parts, last = key.split(".")
    config = {last: {"_target_": "os.system", "command": "touch PWN"}}
    for part in reversed(parts):
        config = {part: config}
    (tmp_path / "conf/experiment/theirs.yaml").write_text(f"# @package _global_\n{json.dumps(config)}")
    arguments = ["launch.py", "-m", f"--config-dir={tmp_path / 'conf'}", "experiment=theirs", "seed=0,1"]
    outcome = server.run(arguments, tmp_path)
    assert outcome.status == 1, outcome.printed
    untouched(tmp_path)


def registered(folder):
    """A package of the user's own, installed with its entry point."""
    (folder / "mine.py").write_text(
        "from nuwa.pruners.random import RandomPruner\nclass Mine(RandomPruner):\n    name = 'mine'\n"
    )
    (folder / "mine-1.0.dist-info").mkdir()
    (folder / "mine-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (folder / "mine-1.0.dist-info/entry_points.txt").write_text("[nuwa.packages]\nmine = mine\n")


def test_a_registered_package_may_be_named(server, tmp_path):
    registered(tmp_path)
    options = ("paths.outputs=out", "pruner._target_=mine.Mine")
    outcome = server.run(["-c", *TOY, *options], tmp_path)  # a program whose sys.path has this folder
    assert outcome.status == 0 and rows_below(tmp_path) == 2, outcome.printed


def test_a_picture_that_would_start_a_program(server, tmp_path):
    """EPS is a program for Ghostscript; Pillow would run it."""
    data = tmp_path / "data"
    data.mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "x.eps")
    (tmp_path / "x.eps").rename(data / "a.png")
    Image.new("RGB", (8, 8)).save(data / "b.png")
    rows = [{"id": name, "image": f"{name}.png", "question": "what ?", "answer": "x"} for name in "ab"]
    (data / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options = ("dataset=local", f"dataset.path={data}", f"paths.outputs={tmp_path / 'out'}")
    outcome = server.run(["launch.py", *TOY, *options], tmp_path)
    assert outcome.status == 0, outcome.printed
    (file,) = tmp_path.glob("out/main/*/predictions.jsonl")
    failed = {row["id"]: row.get("reason") for row in map(json.loads, file.read_text().splitlines())}
    assert failed["b"] is None and "a.png cannot be read" in failed["a"]


def test_cells_and_titles_are_text(server, tmp_path):
    """No formula in a spreadsheet, no command to a terminal."""
    result(tmp_path, pruner={"_target_": "=1+cmd|'x'!A0", "mode": "\x1b]0;title\x07"})
    file = tmp_path / "their/run/result.json"
    content = json.loads(file.read_text()) | {"method": "=1+cmd|'x'!A0", "reason": "\x1b[2J", "status": "failed"}
    file.write_text(json.dumps(content))
    for form in ("csv", "markdown", "latex", "table"):
        printed = server.run(["-m", "nuwa.report", "their", "--format", form], tmp_path).printed
        assert "\x1b" not in printed and "\x07" not in printed
        assert form != "csv" or "'=1+cmd" in printed
