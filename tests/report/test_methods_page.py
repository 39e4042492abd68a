"""docs/methods.md says what the methods say of themselves."""

from pathlib import Path

from nuwa.pruners.catalogue import find_method, method_names
from nuwa.report.methods import page

ROOT = Path(__file__).parents[2]


def test_the_page_is_up_to_date():
    """If this fails: python -m nuwa.report.methods --write docs/methods.md"""
    assert (ROOT / "docs" / "methods.md").read_text(encoding="utf-8") == page()


def test_every_method_has_a_row_and_a_signal():
    lines = page().split("## What a budget becomes")[0].splitlines()
    rows = {line.split("`")[1]: line for line in lines if line.startswith("| `")}
    assert sorted(rows) == method_names()
    assert all(find_method(name)[0].info.signal for name in rows)
    assert "| vision |" in rows["visionzip"]
    assert "| LLM |" in rows["fastv"]
    assert "| both |" in rows["nuwa"]


def test_budgets_of_the_page_are_those_of_the_authors():
    lines = page().split("## What a budget becomes")[1].splitlines()
    rows = {line.split("`")[1]: line for line in lines if line.startswith("| `")}
    assert sorted(rows) == [name for name in method_names() if name != "none"]
    assert "| 336, 48 @16 | 224, 32 @16 | 112, 16 @16 |" in rows["nuwa"]
    assert "| 1162, 116 @16 | 582, 58 @16 | 290, 29 @16 |" in rows["nuwa_release"]
    assert "| 85, 59.5 @15 | 60, 39.6 @15 | 35, 14.7 @15 |" in rows["nuwa_release_qwen"]
    assert "| 192 | 128 | 64 | 640 | 320 | 160 | 75 | 50 | 25 |" in rows["visionzip"]
    assert "needs 180.9 or more" in page().split("NeXT: 160: pruner fastv")[1]
