"""Every test that docs/inside_a_session.md names exists."""

from __future__ import annotations

import ast
import re

import pytest
from helpers.jobs import ROOT

TEXT = (ROOT / "docs" / "inside_a_session.md").read_text("utf-8")
NAMED = sorted(set(re.findall(r"`([a-z_]+/test_[a-z0-9_]+\.py)::(test_[a-z0-9_]+)`", TEXT)))


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_the_test_exists(file, name):
    tree = ast.parse((ROOT / "tests" / file).read_text("utf-8"))
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_line_names_one():
    rows = [line for line in TEXT.splitlines() if line.startswith("| ") and not line.startswith("| way of calling")]
    assert len(rows) > 25 and len(NAMED) > 40
    assert all("::test_" in row for row in rows)
