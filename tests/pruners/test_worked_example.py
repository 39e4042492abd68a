"""CONTRIBUTING's methods, done as it says: two new files each, and everything finds them."""

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
    return folder


SCRIPT = """
import sys
import nuwa, nuwa.report.methods as methods
print(nuwa.__file__, type(nuwa.load_pruner("loudest", budget=20, power=2.0)))
print(nuwa.load_pruner("composed", vision="loudest", llm="nearest"))
print(methods.page())
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
    choices = ["pruner=loudest,nearest,random", "budget.average=24", "baseline=skip", "limit=1"]
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
    assert int(re.search(r"\n(\d+) passed", found)[1]) >= 20, found  # the matrix, on two of its families
    jobs = [json.loads(path.read_text())["config"]["pruner"] for path in tmp_path.glob("main/*/result.json")]
    assert sorted(job["_target_"].split(".")[-1] for job in jobs) == ["Loudest", "Nearest", "RandomPruner"]
