"""The documentation site: what its build makes of Markdown written for GitHub. `.ci/run` builds it, strictly."""

from __future__ import annotations

import importlib.util

import pytest
from helpers.jobs import ROOT

spec = importlib.util.spec_from_file_location("links", ROOT / "docs" / "pages" / "links.py")
links = importlib.util.module_from_spec(spec)
spec.loader.exec_module(links)

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
    assert not links.fetched('<a href="https://a.b">x</a><script src="assets/a.js"></script><link href="b.css">')
