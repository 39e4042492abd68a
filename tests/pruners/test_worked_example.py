"""CONTRIBUTING's methods and position strategy, done as it says, and everything finds them."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.jobs import SMALL

ROOT = Path(__file__).parents[2]
COPIED = ("nuwa", "conf", "launch.py", "pyproject.toml", "tests/helpers", "tests/engine/test_methods.py")


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A copy of the project with the files of the worked examples."""
    folder = tmp_path_factory.mktemp("clone")
    for name in COPIED:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    text = text.split("## A new pruning method")[1].split("\n## ")[0]
    files = re.findall(r"^`([\w/.]+)`:\n```\w+\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert [name for name, _ in files] == [
        *("nuwa/pruners/loudest.py", "conf/pruner/loudest.yaml"),
        *("nuwa/pruners/nearest.py", "conf/pruner/nearest.yaml"),
    ]
    for name, content in files:
        assert content.count("\n") <= 25
        (folder / name).write_text(content, encoding="utf-8")
    add_position(folder)
    return folder


def add_position(folder):
    """CONTRIBUTING's strategy: a function, a line, a file."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    text = text.split("## A new position strategy")[1].split("\n## ")[0]
    function, yaml = re.findall(r"^```\w+\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (line,) = re.findall(r'`("centre": centre)`', text)
    module = folder / "nuwa" / "pruning" / "positions.py"
    code = module.read_text(encoding="utf-8")
    for before, new in [("def stretch_cells", f"{function}\n\n"), ('"rpme": stretch', f"{line}, ")]:
        assert code.count(before) == 1
        code = code.replace(before, new + before)
    module.write_text(code, encoding="utf-8")
    (folder / "conf" / "position" / "centre.yaml").write_text(yaml, encoding="utf-8")


SCRIPT = """
import sys
import nuwa, nuwa.report.methods as methods
print(nuwa.__file__, type(nuwa.load_pruner("loudest", budget=20, power=2.0)))
print(nuwa.load_pruner("composed", vision="loudest", llm="nearest"))
print(methods.page())
import torch
from nuwa.pruning.positions import remap
kept, image = torch.tensor([[[0, 3, 5, 6, 9]]]), torch.tensor([[-1, 0, 0, 0, -1]])  # a picture of the ids 1 to 8
spans = torch.tensor([1, 8])[:, None, None, None]
print("centre", remap("centre", kept, image, image < 1, spans, torch.tensor([[10]])))
import pytest
some = "(loudest or nearest) and (llava or qwen2_5_vl) and not (llava_ or beam)"
chosen = ["tests/engine/test_methods.py", "-k", some]
failed = pytest.main(["-q", "-n0", "-p", "no:cacheprovider", *chosen])
import launch
sys.argv = ["launch.py", *sys.argv[1:]]
sys.exit(failed or launch.main())
"""


def test_two_files_are_enough(clone, tmp_path):
    """One process, because importing transformers is what takes time here."""
    small = [choice for choice in SMALL if not choice.startswith("budget")]
    choices = ["pruner=loudest,nearest,random", "budget.average=24", "position=centre", "baseline=skip", "limit=1"]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, "-m", *small, *choices, f"paths.outputs={tmp_path}"],
        cwd=clone,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(clone), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    found = done.stdout
    assert done.returncode == 0, found + done.stderr
    assert found.startswith(str(clone))
    assert "nuwa.pruners.loudest.Loudest" in found  # load_pruner, and as a part of a composition
    assert "| `loudest` | vision | feature norm |" in found  # the table of methods
    assert "| `nearest` | LLM | cosine with the last prompt token |" in found
    assert "centre (tensor([[[0, 3, 4, 5, 9]]]), tensor([[10]]))" in found  # five places are left over: two before
    assert int(re.search(r"\n(\d+) passed", found)[1]) >= 20, found  # the matrix, on two of its families
    jobs = [json.loads(path.read_text())["config"] for path in tmp_path.glob("main/*/result.json")]
    assert {job["position"]["strategy"] for job in jobs} == {"centre"}
    assert sorted(job["pruner"]["_target_"].split(".")[-1] for job in jobs) == ["Loudest", "Nearest", "RandomPruner"]
