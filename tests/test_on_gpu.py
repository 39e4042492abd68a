"""The GPU script, rehearsed on the CPU at toy sizes: every part writes its numbers, and none stops another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SPEED = ROOT / "experiments" / "speed"
HERE = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}


@pytest.mark.parametrize("part", ["ceilings", "qwen", "profile"])
def test_a_part_writes_its_numbers_and_its_table(part, tmp_path):
    command = [sys.executable, str(SPEED / "on_gpu.py"), part, "--small", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=HERE, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / f"{part}.json").read_text())
    assert written["small"] is True and written["rows"]
    assert f"## {part}" in (tmp_path / "report.md").read_text()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_whole_script_rehearses_every_part(tmp_path):
    command = ["bash", str(SPEED / "on_gpu.sh"), str(tmp_path), "--small"]
    done = subprocess.run(command, cwd=ROOT, env=HERE, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    parts = {path.stem for path in tmp_path.glob("*.json")}
    assert parts == {"laws", "ceilings", "llava", "overhead", "profile", "qwen", "video", "throughput", "training"}
    laws = json.loads((tmp_path / "laws.json").read_text())["rows"]
    assert [row["keep-all"] for row in laws if row["method"] == "none"] == ["equal"]
    assert all(row["cached"] == "same tokens" for row in laws if row["method"] != "none")


@pytest.mark.slow
def test_a_part_that_fails_is_named_and_the_others_run(tmp_path):
    (tmp_path / "laws.json").mkdir()  # where the first part would write
    command = ["bash", str(SPEED / "on_gpu.sh"), str(tmp_path), "--small"]
    done = subprocess.run(command, cwd=ROOT, env=HERE, capture_output=True, text=True)
    assert done.returncode == 1
    report = (tmp_path / "report.md").read_text()
    assert "== laws failed" in report and "## ceilings" in report
