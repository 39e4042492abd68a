"""docs/methods.md says what the methods say of themselves."""

import shlex
from pathlib import Path

import pytest
from helpers.jobs import compose

import nuwa
from nuwa.overrides import for_hydra
from nuwa.pruners.base import MethodInfo
from nuwa.pruners.catalogue import find_method, method_names
from nuwa.pruning.budget import Budget
from nuwa.pruning.tiling import FramesTogether
from nuwa.report.method_facts import METHOD_GROUPS, group_of, publication_year
from nuwa.report.method_page import example_code, example_commands, method_page
from nuwa.report.methods import page

ROOT = Path(__file__).parents[2]


def test_the_page_is_up_to_date():
    """If this fails: nuwa methods --write docs/methods.md"""
    assert (ROOT / "docs" / "methods.md").read_text(encoding="utf-8") == page()


def test_every_method_has_a_row_and_a_signal():
    lines = page().split("## What each one takes")[0].splitlines()
    rows = {line.split("`")[1]: line for line in lines if line.startswith("| `")}
    assert sorted(rows) == method_names()
    assert all(find_method(name)[0].info.signal for name in rows)
    assert "| vision |" in rows["visionzip"]
    assert "| LLM |" in rows["fastv"]
    assert "| both |" in rows["nuwa"]


def test_methods_for_videos_have_a_table_of_their_own():
    lines = page().split("## Videos")[1].split("## What a budget becomes")[0].splitlines()
    rows = {line.split("`")[1]: [cell.strip() for cell in line.split("|")[2:-1]] for line in lines if "| `" in line}
    assert {name for name in method_names() if isinstance(nuwa.load_pruner(name).tiling, FramesTogether)} == set(rows)
    assert rows["evs"][2] == "nothing" and "clusters" in rows["holitom"][2]


def test_budgets_of_the_page_are_those_of_the_authors():
    lines = page().split("## What a budget becomes")[1].split("## What the authors")[0].splitlines()
    rows = {line.split("`")[1]: line for line in lines if line.startswith("| `")}
    assert sorted(rows) == [name for name in method_names() if name != "none"]
    assert "| 336, 48 @16 | 224, 32 @16 | 112, 16 @16 |" in rows["nuwa"]
    assert "| 1162, 116 @16 | 582, 58 @16 | 290, 29 @16 |" in rows["nuwa_release"]
    assert "| 85, 59.5 @15 | 60, 39.6 @15 | 35, 14.7 @15 |" in rows["nuwa_release_qwen"]
    assert "| 192 | 128 | 64 | 640 | 320 | 160 | 75 | 50 | 25 |" in rows["visionzip"]
    assert "needs 180.9 or more" in page().split("NeXT: 160: pruner fastv")[1]


def test_what_the_authors_call_64_and_what_choosing_costs():
    """The averages of shared/methods_new.md and of the authors' lists; the cost of one attention row by hand."""
    lines = page().split("## What the authors' 64 is")[1].splitlines()
    rows = {line.split("`")[1]: [cell.strip() for cell in line.split("|")[2:-1]] for line in lines if "| `" in line}
    assert sorted(rows) == [name for name in method_names() if name != "none"]
    entering = {name: cells[1] for name, cells in rows.items()}
    assert entering["vlm_pruner"] == "96" and entering["occamtoken"] == "128" and entering["sparsevlm"] == "82"
    assert entering["dart"] == "100" and entering["visionzip"] == entering["nuwa"] == "64" and entering["fastv"] == ""
    for name, options in (("sparsevlm", "authors"), ("sparsevlm_plus", "authors"), ("dart", "authors")):
        method = find_method(name)[0]
        assert method(budget=Budget(average=64), counting=options).schedule(576, 32) == method.info.nominal
    assert rows["fastv"][2] == f"{2 * 576 * 4096 / 1e6:.3g}"
    prefill = 32 * (8 * 576 * 4096**2 + 4 * 576**2 * 4096 + 4 * 576 * 4096 * 11008)
    assert rows["divprune"][3] == f"{(576**2 * 4096 + 64 * 576 * 4096) / prefill:.3%}"


def test_every_method_has_a_group_and_those_of_a_paper_a_year():
    groups = {name: group_of(name) for name in method_names()}
    assert set(groups.values()) == set(METHOD_GROUPS)
    some = {
        "nuwa": "both",
        "composed": "both",
        "visionzip": "vision",
        "fastv": "LLM",
        "evs": "videos",
        "grid": "baselines",
    }
    assert some.items() <= groups.items()
    years = {"arXiv 2312.01026": "2023", "ICLR 2026": "2026", "": ""}
    assert {paper: publication_year(MethodInfo(paper=paper)) for paper in years} == years


def test_the_page_of_one_method():
    text = method_page("visionzip")
    assert text.startswith("# visionzip\n\nVisionZip (arXiv 2412.04467): dominant tokens")
    assert "evenly\nspaced targets each take in" in text and "`contextual` is the share" in text  # both docstrings
    assert "\ncontextual: 0.15625 " in text
    assert "| LLaVA-1.5-7B, 576 | 64 | 64 |" in text
    assert "cannot reach budget.average=160" in method_page("fastv")
    with pytest.raises(ValueError, match="choose one of"):
        method_page("vision_zip")


@pytest.mark.parametrize("name", ["nuwa", "mmtok", "vidcom2", "none"])
def test_the_example_of_a_page_runs(name, monkeypatch, capsys):
    """One before and inside the LLM, one that reads questions, one for videos, none. The site's build runs all."""
    monkeypatch.chdir(ROOT)
    exec(compile(example_code(name), name, "exec"), {})
    assert f"\n{name}, position ids" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["nuwa", "vidcom2", "none"])
def test_the_commands_of_a_page_compose(name):
    for line in example_commands(name).splitlines():
        choices = [word.split(",")[0] for word in shlex.split(line) if "=" in word]
        assert compose(*for_hydra(choices)).pruner._target_.startswith("nuwa.pruners.")
