"""The wrapper of command lines: exit status, one line for bad input, silence for a reader who leaves."""

import argparse
import subprocess
import sys

import pytest
from helpers.jobs import ROOT

from nuwa.command import argument, command


@command("Raise or return what is asked for.", argument("what"))
def main(options):
    outcomes = {"nothing": None, "three": 3, "usage": argparse.ArgumentError(None, "one or the other")}
    outcomes |= {kind.__name__: kind("x=1: no") for kind in (ValueError, OSError, RuntimeError)}
    outcome = outcomes[options.what]
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def test_exit_status():
    assert (main(["nothing"]), main(["three"])) == (0, 3)


@pytest.mark.parametrize("kind", ["ValueError", "OSError"])
def test_bad_input_is_one_line(kind, capsys, monkeypatch):
    assert main([kind]) == 1
    assert capsys.readouterr().err == "error: x=1: no\n"
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    assert main([kind]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_other_errors_are_not_hidden():
    with pytest.raises(RuntimeError):
        main(["RuntimeError"])


def test_wrong_usage_is_said_with_the_usage(capsys):
    with pytest.raises(SystemExit) as left:
        main(["usage"])
    printed = capsys.readouterr().err
    assert left.value.code == 2 and printed.startswith("usage:") and "one or the other" in printed


@pytest.mark.parametrize("lines", [1, 100000])
def test_a_reader_that_leaves_hears_nothing(lines):
    code = "import sys; from nuwa.command import command\n"
    code += f"main = command('Much.')(lambda options: print('line\\n' * {lines}))\nsys.exit(main())"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait() == 1
