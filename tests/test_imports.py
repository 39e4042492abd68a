"""What a command does not import: seconds for whoever waits for help, a table, or work that is finished."""

import json
import os
import subprocess
import sys

import pytest
from helpers.jobs import ROOT, compose

from nuwa.config import plain, run_key
from nuwa.evaluation.result import RESULT

ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}
SLOW = {"transformers", "lightning", "wandb", "sympy", "matplotlib", "pandas", "datasets"}


def imported_by(*command):
    """The packages that a Python program imports, and what it prints."""
    line = [sys.executable, "-X", "importtime", *command]
    done = subprocess.run(line, env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stderr.splitlines()
    names = [line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")]
    assert len(names) > 20
    said = [line for line in lines if not line.startswith("import time:")]
    return {name.partition(".")[0] for name in names}, "\n".join([done.stdout, *said])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder of outputs in which the default run has a result."""
    cfg = compose()
    outputs = tmp_path_factory.mktemp("outputs")
    folder = outputs / cfg.name / run_key(cfg)
    folder.mkdir(parents=True)
    result = {"status": "done", "run_key": folder.name, "config": plain(cfg), "method": "nuwa", "baseline": "base"}
    (folder / RESULT).write_text(json.dumps(result | {"metrics": {"vqa/exact_match": 0.5}, "n": 2, "protocol": 1}))
    return outputs


@pytest.mark.parametrize("words", ["--help", "--version"])
def test_help_imports_no_library(words):
    packages, said = imported_by("-m", "nuwa", words)
    assert "nuwa" in said and not packages & (SLOW | {"torch", "numpy", "hydra", "omegaconf", "pydantic", "PIL"})


def test_a_finished_run_is_skipped_without_what_computing_needs(finished):
    packages, said = imported_by("launch.py", f"paths.outputs={finished}")
    assert "finished before, skipped" in said and "│ nuwa " in said
    assert "torch" in packages and not packages & SLOW


@pytest.mark.parametrize("command", [["report"], ["methods"]])
def test_tables_need_no_model(command, finished):
    where = [str(finished / "main")] if command == ["report"] else []
    packages, said = imported_by("-m", "nuwa", *command, *where)
    assert "nuwa" in said and not packages & SLOW
