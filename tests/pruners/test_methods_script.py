"""experiments/speed/methods.py runs, and measures what it says."""

import importlib.util
from pathlib import Path

import pytest

from nuwa.models.random_vlm import RandomModel

SCRIPT = Path(__file__).parents[2] / "experiments" / "speed" / "methods.py"


@pytest.fixture
def script(monkeypatch):
    spec = importlib.util.spec_from_file_location("methods", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    small = {"hidden_size": 32, "intermediate_size": 32, "heads": 2, "vision_hidden_size": 32, "vision_heads": 2}
    monkeypatch.setattr(module, "SIZES", RandomModel(prompt="{images}{text}", layers=16, vision_layers=2, **small))
    return module


def test_the_table(script, capsys):
    script.main(["--repeats", "2", "--warmup", "0", "--methods", "random,fastv,cdpruner"])
    lines = [line.split("|") for line in capsys.readouterr().out.splitlines()[4:]]
    rows = {cells[1].strip(): cells[2:6] for cells in lines}
    assert list(rows) == ["random", "fastv", "cdpruner", "cdpruner, pruner.clip (CLIP ViT-L/14)"]
    assert [cell.strip() for cell in rows["random"][1:]] == ["0.000%"] * 3
    # one row of keys over 576 visual and 95 text tokens, of 32 layers
    keys = 2 * (576 + 95) * 4096**2
    whole = 32 * (8 * 576 * 4096**2 + 4 * 576**2 * 4096 + 4 * 576 * 4096 * 11008)
    assert rows["fastv"][2].strip() == f"{keys / whole:.3%}"
    assert rows["cdpruner, pruner.clip (CLIP ViT-L/14)"][3].strip() == "0.243%"
    assert all("%" in rows[name][0] for name in ("random", "fastv", "cdpruner"))
