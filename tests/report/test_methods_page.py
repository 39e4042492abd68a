"""docs/methods.md says what the methods say of themselves."""

from pathlib import Path

from nuwa.pruners.catalogue import find_method, method_names
from nuwa.report.methods import page

ROOT = Path(__file__).parents[2]


def test_the_page_is_up_to_date():
    """If this fails: python -m nuwa.report.methods --write docs/methods.md"""
    assert (ROOT / "docs" / "methods.md").read_text(encoding="utf-8") == page()


def test_every_method_has_a_row_and_a_signal():
    rows = {line.split("`")[1]: line for line in page().splitlines() if line.startswith("| `")}
    assert sorted(rows) == method_names()
    assert all(find_method(name)[0].facts.signal for name in rows)
    assert "| vision |" in rows["visionzip"]
    assert "| LLM |" in rows["fastv"]
    assert "| both |" in rows["nuwa"]
