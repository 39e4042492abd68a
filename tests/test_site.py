"""The documentation site: what its build makes of Markdown written for GitHub. `.ci/run` builds it, strictly."""

from __future__ import annotations

import importlib.util
import re

import pytest
from helpers.jobs import ROOT
from PIL import Image


def page_maker(name):
    """A module of docs/pages, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "pages" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


links, figures = page_maker("links"), page_maker("figures")

PAGES = {"README.md": "index.md", "docs/use.md": "use.md", "docs/a.png": "a.png", "lib/README.md": "lib/card.md"}


@pytest.mark.parametrize(
    ("source", "before", "after"),
    [
        ("README.md", "[use](docs/use.md#a-page)", "[use](use.md#a-page)"),
        ("docs/use.md", "[home](../README.md), ![a](a.png)", "[home](index.md), ![a](a.png)"),
        ("lib/README.md", "[use](../docs/use.md)", "[use](../use.md)"),
        ("docs/use.md", "[the `card`](../lib/README.md)", "[the `card`](lib/card.md)"),
        ("docs/use.md", "[here](#below) [net](https://a.b/c)", "[here](#below) [net](https://a.b/c)"),
        ("docs/use.md", "see [`conf/x.yaml`](../conf/x.yaml).", "see `conf/x.yaml`."),
        ("docs/use.md", "`a[0](../conf)` and\n```\nx[1](../y)\n```\n", "`a[0](../conf)` and\n```\nx[1](../y)\n```\n"),
    ],
)
def test_links_are_moved(source, before, after):
    assert links.move_links(before, source, PAGES, repository="") == after


def test_links_to_code_lead_to_the_repository():
    moved = links.move_links("[x](../conf/x.yaml)", "docs/use.md", PAGES, repository="https://host/us/it")
    assert moved == "[x](https://host/us/it/blob/main/conf/x.yaml)"


def test_lists_behind_text_get_a_blank_line():
    text = "Three:\n- a\n  more\n- b\n\nText\n```\nx\n- y\n```\n"
    assert links.spaced_lists(text) == "Three:\n\n- a\n  more\n- b\n\nText\n```\nx\n- y\n```\n"


def test_badges_are_left_out():
    assert links.without_badges("# A\n[![x](https://b.c/d)](e.md)\n![y](f.png)") == "# A\n![y](f.png)"


@pytest.mark.parametrize(
    "page",
    [
        '<script src="https://a.b/c.js"></script>',
        "<script src=//a.b/c.js>",
        '<link rel="stylesheet" href="http://a.b/c.css">',
        '<img alt="x" src="https://a.b/c.png">',
    ],
)
def test_what_a_browser_would_fetch_is_found(page):
    assert links.fetched(page)


def test_links_and_local_files_are_not_fetched():
    page = '<a href="https://a.b">x</a><script src="assets/a.js"></script><link href="b.css">'
    assert not links.fetched(page + '<link rel="canonical" href="http://127.0.0.1:8000/index.html">')


def test_names_in_tables_lead_to_their_pages():
    text = "| `nuwa` `grid` | [`grid`](x) |\nand `nuwa`"
    assert links.linked_names(text, {"nuwa": "m/nuwa.md", "grid": "m/grid.md"}) == (
        "| [`nuwa`](m/nuwa.md) [`grid`](m/grid.md) | [`grid`](x) |\nand `nuwa`"
    )


@pytest.mark.parametrize("name", figures.DRAWN)
def test_figures_are_up_to_date(name):
    """If this fails: python docs/pages/figures.py"""
    assert (ROOT / "docs" / "figures" / name).read_text(encoding="utf-8") == figures.DRAWN[name]()


def test_figures_show_the_ids_that_the_paper_defines():
    """Five of 16 tokens behind three of text: RPME takes an offset p to ceil(p * 15 / 10), the first to 0."""
    ids = {strategy: figures.ids_under(strategy) for strategy in ("pesp", "perc", "rpme")}
    assert ids["pesp"] == [0, 1, 2, 5, 8, 9, 12, 13, 19, 20, 21]
    assert ids["perc"] == list(range(11))
    assert ids["rpme"] == [0, 1, 2, 3, 11, 12, 17, 18, 19, 20, 21]


def test_pictures_of_examples_are_held_out_ones():
    """If this fails: python docs/pages/figures.py"""
    for name, picture in figures.examples().items():
        file = Image.open(ROOT / "docs" / "example" / name)
        assert file.mode == picture.mode and file.tobytes() == picture.tobytes(), name


def test_every_document_is_in_the_navigation():
    """The strict build would stop at one that is not."""
    named = re.findall(r"[ :]([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert {str(path.relative_to(ROOT / "docs")) for path in ROOT.glob("docs/**/*.md")} <= set(named)
