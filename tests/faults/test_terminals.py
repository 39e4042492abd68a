"""Terminals, pipes and disks that cannot take what is printed."""

import json
import logging
import os
import subprocess
import sys

import pytest
from helpers.faults import TOY, rows_below
from helpers.jobs import ROOT

from nuwa.evaluation.unharmed import QuietLog


def shell(folder, command, **environment):
    """A command line of bash, in a fresh process with this environment."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(["bash", "-c", command], cwd=folder, env=environment, capture_output=True, timeout=120)


def test_a_terminal_that_knows_ascii_alone_in_ten_columns(tmp_path):
    ascii_only = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C", "COLUMNS": "10", "TZ": "Nowhere/Bad"}
    overrides = [*TOY, "callbacks.progress=true", "paths.outputs=out"]
    done = shell(tmp_path, f"{sys.executable} {ROOT}/launch.py {' '.join(overrides)}", **ascii_only)
    assert done.returncode == 0 and b"Traceback" not in done.stdout + done.stderr, done.stderr
    assert rows_below(tmp_path) == 2


@pytest.mark.parametrize("form", ["table", "csv"])
def test_a_reader_that_closes_early_ends_a_report_quietly(form, tmp_path):
    """As ``| head`` does."""
    for number in range(300):
        (tmp_path / f"out/main/{number}").mkdir(parents=True)
        content = {"status": "failed", "reason": f"{number} " * 200, "config": {}, "run_key": str(number)}
        (tmp_path / f"out/main/{number}/result.json").write_text(json.dumps(content))
    report = f"{sys.executable} -m nuwa.report out --format {form}"
    done = shell(tmp_path, f"set -o pipefail; {report} | head -1; exit ${{PIPESTATUS[0]}}")
    assert done.stderr == b"" and done.returncode == 1 and done.stdout.count(b"\n") == 1


def test_a_full_disk_silences_the_log_alone(tmp_path, capfd):
    """Writing to /dev/full fails as on a full disk."""
    (tmp_path / "launch.log").symlink_to("/dev/full")
    logger = logging.getLogger("a full disk")
    logger.propagate = False  # handlers of other tests may hold closed streams
    for name in ("launch.log", "missing/launch.log"):
        handler = QuietLog(str(tmp_path / name))
        logger.addHandler(handler)
        logger.error("nothing of it is lost")
        logger.removeHandler(handler)
        handler.close()
    handler = QuietLog(str(tmp_path / "other.log"))
    logger.addHandler(handler)
    logger.error("ä")
    logger.removeHandler(handler)
    handler.close()
    assert (tmp_path / "other.log").read_text(encoding="utf-8") == "ä\n"
    assert "Logging error" not in capfd.readouterr().err
