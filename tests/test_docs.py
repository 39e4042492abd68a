"""Every command that the documents show composes, and every file and module that they name exists."""

from __future__ import annotations

import importlib.util
import re
import shlex

import pytest
from helpers.jobs import ROOT, compose
from PIL import Image

from nuwa.command import COMMANDS
from nuwa.config import BUILT, typed
from nuwa.engine.blocking import layer_range
from nuwa.overrides import for_hydra
from nuwa.pruners.catalogue import method_names

DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(ROOT.glob("docs/*.md")),
    *sorted(ROOT.glob("experiments/**/*.md")),
]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands(start: str) -> list[str]:
    """Lines of code in the documents that begin with ``start``, comments cut off."""
    found = []
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        found += re.findall(rf"(?:^|`|&& )({re.escape(start)}[^`\n]*)", text, re.MULTILINE)
    return sorted({line.split("  #")[0].split(" #")[0].strip() for line in found})


@pytest.mark.parametrize("command", commands("python launch.py") + commands("nuwa run"))
def test_launch_commands_compose(command):
    words = shlex.split(command)[2:]
    overrides = [word for word in words if "=" in word and not word.startswith(("hydra/", "hydra.", "+hydra."))]
    if "-m" in words:  # the first point of a sweep
        assert words[0] == "-m", "hydra wants -m before the overrides"
        overrides = [f"{key}={values.split(',')[0]}" for key, _, values in (word.partition("=") for word in overrides)]
    kept = [word for word in overrides if "<" not in word and not word.startswith("pruner=loudest")]
    cfg = compose(*for_hydra(kept))
    for group in BUILT:
        typed(cfg, group)


@pytest.mark.parametrize("override", commands("blocking."))
def test_overrides_of_blocking_compose(override):
    """The table of groups shows them one by one."""
    layer_range(compose("blocking=text_to_vision", override).blocking.layers, 32)


@pytest.mark.parametrize("command", commands("python -m nuwa"))
def test_modules_exist(command):
    module = shlex.split(command)[2].strip(".,;")
    assert importlib.util.find_spec(module)


@pytest.mark.parametrize("command", commands("nuwa "))
def test_commands_exist(command):
    assert shlex.split(command)[1] in (*COMMANDS, "<command>", "--help")


@pytest.mark.parametrize("command", commands("python experiments/"))
def test_scripts_exist(command):
    assert (ROOT / shlex.split(command)[1]).is_file()


def test_readme_is_short_and_its_tables_narrow():
    assert len(README.split()) < 1200
    cells = [cell.strip() for line in README.splitlines() if line.startswith("|") for cell in line.split("|")]
    assert max(map(len, cells)) <= 80


def test_readme_names_every_method_and_no_other():
    table = README[README.index("## Methods") : README.index("## Which experiment")]
    rows = [line.split("|")[2] for line in table.splitlines() if line.startswith("| ") and "pruner=" not in line]
    assert sorted(re.findall(r"`(\w+)`", " ".join(rows))) == sorted(method_names())


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document):
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (document.parent / link).exists()]
    assert not missing


def test_readmes_twelve_lines_run(tmp_path, monkeypatch, capsys):
    """As they stand, but for the checkpoint, the picture and the GPU."""
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len([line for line in code.splitlines() if line]) <= 12
    Image.new("RGB", (96, 96), "red").save(tmp_path / "dog.jpg")
    monkeypatch.chdir(tmp_path)
    code = code.replace("llava-hf/llava-1.5-7b-hf", str(ROOT / "nuwa" / "tiny" / "llava")).replace('.to("cuda")', "")
    exec(compile(code, "README.md", "exec"), {})
    assert "USER:" in capsys.readouterr().out
