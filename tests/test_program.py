"""The program `nuwa`: every command is there, says what it is, and behaves as its module does."""

import ast
import os
import subprocess
import sys
import warnings

import pytest
from helpers.jobs import ROOT, SMALL

from nuwa.__main__ import main
from nuwa.command import COMMANDS
from nuwa.evaluation.runs import Run

ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}
TRAINING = "nuwa.tiny."  # of the shipped weights: for who changes them


@pytest.fixture
def nuwa(monkeypatch, capsys):
    """``nuwa ...`` in this process: exit status, what it printed, what it complained of."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["nuwa", *arguments])
        monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
        try:
            with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # runpy: imported before
                status = main()
        except SystemExit as left:
            status = left.code or 0
        return status, *capsys.readouterr()

    return call


def test_every_module_that_runs_is_a_command():
    def runs(path):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        return any(isinstance(node, ast.If) and "__name__" in ast.unparse(node.test) for node in tree.body)

    paths = [path.relative_to(ROOT).with_suffix("") for path in ROOT.glob("nuwa/**/*.py") if runs(path)]
    modules = {".".join(path.parts).removesuffix(".__main__") for path in paths}
    assert {name for name in modules if not name.startswith(TRAINING)} - {"nuwa"} == {m for m, _ in COMMANDS.values()}


def test_help_names_every_command(nuwa):
    status, printed, _ = nuwa("--help")
    assert status == 0 and all(f"\n  {name} " in printed for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name, nuwa):
    status, printed, wrong = nuwa(name, "--help")
    assert status == 0 and not wrong
    assert f"nuwa {name} " in printed.split("\n\n")[0]


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - {"run"}))
def test_wrong_usage_is_said_with_the_usage(name, nuwa):
    status, printed, wrong = nuwa(name, "--no-such-option")
    assert (status, printed) == (2, "") and wrong.startswith(f"usage: nuwa {name} ")


@pytest.mark.parametrize("arguments", [(), ("bogus",), ("--bogus",)])
def test_what_is_no_command_ends_with_2(arguments, nuwa):
    status, printed, wrong = nuwa(*arguments)
    assert (status, printed) == (2, "") and "usage: nuwa <command>" in wrong
    assert all(f"{argument!r} is no command" in wrong for argument in arguments)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("run", "pruner=magic"), "pruner/magic"),
        (("run", "pruner=null"), "pruner=null"),
        (("report", "nowhere"), "nowhere"),
        (("compare", "a", "b"), "a, b: fewer than two finished runs"),
        (("retention", "nowhere"), "nowhere"),
        (("failures", "a", "b"), "a"),
        (("pictures", "a"), "a: no finished run"),
        (("ask", "what ?", "--image", "a.png"), "a.png does not exist"),
        (("demo", "pruner=nuwa"), "nuwa"),
        (("export", "a"), "a: no finished run (it is no run's folder)"),
        (("judge", "a", "--url", "http://127.0.0.1:9/v1", "--model", "m"), "a"),
        (("methods", "--write", "no/such/folder.md"), "no/such/folder.md"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
def test_bad_input_is_said_without_a_traceback(arguments, says, nuwa, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, printed, wrong = nuwa(*arguments)
    assert status == 1 and says in printed + wrong and "Traceback" not in printed + wrong
    assert arguments[0] == "run" or len(wrong.splitlines()) == 1


def test_a_command_is_the_main_module_of_its_process(nuwa, tmp_path, monkeypatch):
    """By its name torchrun and launchers start it again; ``nuwa`` is a script that they would not find."""
    (tmp_path / "toy_main.py").write_text("import sys\nprint(sys.modules['__main__'].__spec__.name, sys.argv[1:])")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(COMMANDS, "toy", ("toy_main", ""))
    assert nuwa("toy", "a=1") == (0, "toy_main ['a=1']\n", "")


def test_a_run_lands_where_it_is_typed(nuwa, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, printed, _ = nuwa("run", *SMALL, "baseline=skip", "dataset.samples=2")
    (folder,) = tmp_path.glob("outputs/main/*/")
    assert status == 0 and Run.read(folder).done and "nuwa report outputs/main" in printed


GOING_ON = """
import logging, sys
from nuwa.command import without_reader
without_reader()
logging.basicConfig(stream=sys.stdout, level=logging.INFO)
for number in range(3000):
    print("printed", number)
    logging.info("logged")
open("finished", "w").close()
"""


@pytest.mark.parametrize(
    ("arguments", "leaves"), [(("-m", "nuwa", "run", "--help"), []), (("-c", GOING_ON), ["finished"])]
)
def test_a_reader_that_leaves_hears_nothing(arguments, leaves, tmp_path):
    """A run goes on without it: what it finds is on disk."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, *arguments], cwd=tmp_path, env=ENVIRONMENT, **pipes)
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait() == 0
    assert [path.name for path in tmp_path.iterdir()] == leaves
