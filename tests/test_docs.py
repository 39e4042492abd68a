"""Every command that the documents show composes, and every file and module that they name exists."""

from __future__ import annotations

import importlib.util
import re
import shlex

import pytest
from helpers.jobs import ROOT, compose

from nuwa.config import BUILT, typed
from nuwa.engine.blocking import layer_range

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("experiments/**/*.md"))]


def commands(start: str) -> list[str]:
    """Lines of code in the documents that begin with ``start``, comments cut off."""
    found = []
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        found += re.findall(rf"(?:^|`|&& )({re.escape(start)}[^`\n]*)", text, re.MULTILINE)
    return sorted({line.split("  #")[0].split(" #")[0].strip() for line in found})


@pytest.mark.parametrize("command", commands("python launch.py"))
def test_launch_commands_compose(command):
    words = shlex.split(command)[2:]
    overrides = [word for word in words if "=" in word and not word.startswith(("hydra/", "hydra."))]
    if "-m" in words:  # the first point of a sweep
        assert words[0] == "-m", "hydra wants -m before the overrides"
        overrides = [f"{key}={values.split(',')[0]}" for key, _, values in (word.partition("=") for word in overrides)]
    cfg = compose(*(word for word in overrides if "<" not in word and not word.startswith("pruner=loudest")))
    for group in BUILT:
        typed(cfg, group)


@pytest.mark.parametrize("override", commands("blocking."))
def test_overrides_of_blocking_compose(override):
    """The table of groups shows them one by one."""
    layer_range(compose("blocking=text_to_vision", override).blocking.layers, 32)


@pytest.mark.parametrize("command", commands("python -m nuwa"))
def test_modules_exist(command):
    module = shlex.split(command)[2].strip(".,;")
    if module == "nuwa.launch":  # a wheel holds launch.py inside the package
        assert (ROOT / "launch.py").is_file()
    else:
        assert importlib.util.find_spec(module)


@pytest.mark.parametrize("command", commands("python experiments/"))
def test_scripts_exist(command):
    assert (ROOT / shlex.split(command)[1]).is_file()
