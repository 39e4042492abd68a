"""Every command that the documents show composes, and every file and module that they name exists."""

from __future__ import annotations

import importlib.util
import re
import shlex
from contextlib import nullcontext
from functools import cache
from pathlib import Path

import pytest
import torch
from helpers.jobs import ROOT, compose
from PIL import Image

import nuwa
from nuwa.ask import main as ask
from nuwa.command import COMMANDS
from nuwa.config import BUILT, typed
from nuwa.engine.blocking import layer_range
from nuwa.overrides import for_hydra
from nuwa.pruners.catalogue import method_names

DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    ROOT / "CHANGELOG.md",
    *sorted(ROOT.glob("docs/**/*.md")),
    *sorted(ROOT.glob("experiments/**/*.md")),
]
ONLY_IN_CONTRIBUTING = ("pruner=loudest", "position=centre")
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
    kept = [
        word for word in overrides if "<" not in word and not word.startswith(("pruner=loudest", "position=centre"))
    ]
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


class Parsed(Exception):
    """A command line was understood."""


def stop():
    raise Parsed


@pytest.mark.parametrize("command", [line for line in commands("nuwa ") if not line.startswith("nuwa run")])
def test_commands_are_understood(command, monkeypatch):
    """Up to the end of parsing, but for those that are only named and those that leave options open."""
    name, *words = shlex.split(command)[1:]
    assert name in (*COMMANDS, "<command>", "--help")
    if name not in COMMANDS or not words or re.search(r"--\w+ <", command):
        return
    module = importlib.import_module(COMMANDS[name][0])
    if hasattr(module, "__path__"):
        module = importlib.import_module(f"{module.__name__}.__main__")
    monkeypatch.setattr("nuwa.command.forgiving_output", stop)
    with pytest.raises(Parsed):
        module.main(words)


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


@cache
def anchors(document: Path) -> set[str]:
    """What GitHub calls the headings of a document."""
    text = re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = [heading.strip().lower() for heading in re.findall(r"^#+ (.*)", text, re.MULTILINE)]
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document):
    missing = []
    for link in re.findall(r"\]\(([^)\s]+)[^)]*\)", document.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        if "://" not in link and not (target.exists() and (not anchor or anchor in anchors(target))):
            missing.append(link)
    assert not missing


def test_the_answers_of_get_started(tmp_path, monkeypatch, capsys):
    """Its questions about the scene, asked; each box that it quotes is an answer."""
    text = (ROOT / "docs" / "get_started.md").read_text(encoding="utf-8")
    quoted = re.findall(r"`(\[[\d.,]+\])`", text)
    monkeypatch.chdir(ROOT)
    for line in re.findall(r"^nuwa ask (.*)", text, re.MULTILINE):
        assert ask([*shlex.split(line), "--out", str(tmp_path)]) == 0
    answers = capsys.readouterr().out
    assert len(quoted) == 3 and all(f" {answer} " in answers for answer in quoted)


def python_blocks() -> dict[str, str]:
    """The lines of Python that documents show, by document and first line."""
    found = {}
    for document in DOCUMENTS:
        for code in re.findall(r"```python\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL):
            found[f"{document.relative_to(ROOT)}: {code.splitlines()[0]}"] = code
    return found


RUN_ELSEWHERE = {
    "CONTRIBUTING.md": "pruners/test_worked_example.py, benchmarks/test_contributing.py, models/test_conformity.py",
    "docs/serving.md": "asks a server, as tests/serve does (pytest -m vllm)",
}
BLOCKS = {name: code for name, code in python_blocks().items() if name.partition(":")[0] not in RUN_ELSEWHERE}


@pytest.fixture
def surroundings(tmp_path, monkeypatch):
    """What documents take as given: a folder with a picture, a model, a method, a prompt and a further question."""
    Image.new("RGB", (96, 96), "red").save(tmp_path / "dog.jpg")
    monkeypatch.chdir(tmp_path)
    loaded = nuwa.load_model("tiny_llava")
    inputs = loaded.encode([nuwa.Sample.ask("is there a red circle ?", Image.open("dog.jpg"))])
    return {
        "nuwa": nuwa,
        "torch": torch,
        "model": loaded.model,
        "pruner": nuwa.load_pruner("nuwa", budget=64),
        "layer": 12,
        "inputs": inputs,
        "input_ids": inputs["input_ids"],
        "attention_mask": inputs["attention_mask"],
        "next_question": loaded.tokenizer(" what color ?", add_special_tokens=False, return_tensors="pt").input_ids,
    }


@pytest.mark.parametrize("name", BLOCKS)
def test_lines_of_python_run(name, surroundings):
    """As they stand, but for the checkpoint and the GPU; those that go on inside a session, inside one."""
    small = {'"llava-hf/llava-1.5-7b-hf"': repr(str(ROOT / "nuwa" / "tiny" / "llava")), '.to("cuda")': ""}
    small['"llava_1_5_7b"'] = '"tiny_llava"'
    code = BLOCKS[name]
    for large, here in small.items():
        code = code.replace(large, here)
    opens = "nuwa.prune(" in code
    with nullcontext() if opens else nuwa.prune(surroundings["model"], surroundings["pruner"]):
        exec(compile(code, name, "exec"), surroundings)


def test_readmes_lines_are_twelve():
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len([line for line in code.splitlines() if line]) <= 12
