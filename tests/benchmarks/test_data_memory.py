"""experiments/speed/data_memory.py at toy size: what it writes, not how long anything takes."""

import csv
import importlib.util
import sys
from itertools import pairwise

import pytest
from helpers.jobs import ROOT, SMALL
from PIL import Image

pytestmark = pytest.mark.usefixtures("own_cache")


def test_the_script(tmp_path, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("data_memory", ROOT / "experiments/speed/data_memory.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    toy = [override for override in SMALL if not override.startswith(("dataset.", "callbacks", "logger"))]
    monkeypatch.setattr(sys, "argv", ["data_memory.py", "--rows", "40", "--work", str(tmp_path), *toy])
    script.main()
    printed = capsys.readouterr().out
    assert "40 samples in " in printed and "% in generate" in printed and "MB per thousand samples" in printed
    with (tmp_path / "data_memory.csv").open() as file:
        rows = [[float(cell) for cell in row.values()] for row in csv.DictReader(file)]
    assert rows[-1][0] == 40 and all(before[0] < after[0] for before, after in pairwise(rows))
    assert all(own > 100 for _, own, _ in rows)
    assert Image.open(tmp_path / "data_memory.png").width > 600
    monkeypatch.setattr(sys, "argv", [*sys.argv, "budget.average=1000000"])
    with pytest.raises(SystemExit, match=r"error: .*budget\.average=1e\+06 is more than"):
        script.main()
