"""The script that says where the time of a prefill goes: its parts are the whole, and pruning shows where it should."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

SPEED = Path(__file__).resolve().parents[1] / "experiments" / "speed"


@pytest.fixture
def where(monkeypatch):
    """The script as a module."""
    monkeypatch.syspath_prepend(SPEED)
    monkeypatch.delitem(sys.modules, "where", raising=False)
    import where

    return where


def test_the_parts_of_a_prefill_are_the_whole(where):
    loaded = where.build(64, 4)
    inputs = where.inputs_of(loaded, 2)
    forward = loaded.model.lm_head.forward
    found = {}
    for name in ("none", "nuwa"):
        pruner = where.nuwa.load_pruner(name, budget=None if name == "none" else 64)
        times, lengths = where.run(loaded.model, inputs, pruner)
        assert sum(times[part] for part in where.PARTS) == pytest.approx(times["all"])
        assert times["prefill"] == pytest.approx(times["all"] - times["tower"]) and times["step"] > 0
        assert all(times[part] > 0 for part in ("tower", "attention", "MLP", "norms", "lm_head", "rest"))
        found[name] = lengths
    assert found["none"] == [671] * 4  # 576 visual tokens and 95 of text
    assert len(set(found["nuwa"])) == 2 and sum(found["nuwa"]) == 4 * (64 + 95)
    assert loaded.model.lm_head.forward == forward  # nothing is left behind


def test_the_table(where, capsys):
    where.main(["--models", "64x4", "--batches", "1", "--repeats", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "milliseconds, 1 thread(s), 1 timed rounds"
    head, _, unpruned, pruned = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert unpruned[:3] == ["64 x 4", "1", "none"] and pruned[2] == "nuwa"
    assert head[3:10] == list(where.PARTS) and pruned[-1].endswith("reached") and not unpruned[-1]
