"""CONTRIBUTING's example of a new benchmark works as it stands."""

import json
import re
import sys
from types import ModuleType

from helpers.jobs import ROOT
from PIL import Image


def test_the_example_of_a_benchmark(tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.DOTALL)
    (code,) = (block for block in blocks if "class Colours" in block)
    module = ModuleType("colours")
    monkeypatch.setitem(sys.modules, "colours", module)
    exec(code, vars(module))
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    row = {"image": "a.png", "question": "Which colour?", "answer": "red"}
    (tmp_path / "test.jsonl").write_text(json.dumps(row), encoding="utf-8")
    options = {"name": "colours", "hub": [], "split": "test", "path": str(tmp_path), "answer_tokens": 4}
    colours = module.Colours(**options, prompt="{question} One word.")
    assert colours[0].text == "Which colour? One word."
    scores = [colours.score(colours[0], answer) for answer in ("Red.", "blue")]
    assert colours.metrics([{"scores": one} for one in scores]) == {"colours/exact_match": 0.5}
