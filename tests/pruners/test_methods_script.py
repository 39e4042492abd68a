"""experiments/speed/methods.py runs, and measures what it says."""

import importlib.util
from pathlib import Path

import pytest

from nuwa.models.random_vlm import RandomModel

SCRIPT = Path(__file__).parents[2] / "experiments" / "speed" / "methods.py"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPT.parent)
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


def test_the_table_of_a_video(script, monkeypatch, capsys):
    """At small widths: methods that see all frames, and one that goes frame by frame."""
    shapes = importlib.import_module("video_shapes")
    small = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2}
    monkeypatch.setattr(shapes, "QWEN2_7B", small)
    monkeypatch.setattr(shapes, "PATCHES", 16)
    monkeypatch.setattr(shapes, "FRAMES", 4)
    script.main(["--video", "--repeats", "1", "--methods", "flashvid,evs,visionzip"])
    first, *table = capsys.readouterr().out.splitlines()
    assert first.startswith("a prefill of 784 tokens: ")
    rows = {cells[1].strip(): cells[2:6] for cells in (line.split("|") for line in table[3:] if line)}
    assert list(rows) == ["flashvid", "evs", "visionzip"]
    assert rows["evs"][1].strip() == "0.000 s" and all("%" in cells[2] and "%" in cells[3] for cells in rows.values())
