"""docs/models.md names every family and every file of conf/model, each where it belongs."""

import re

import pytest
from helpers.jobs import CONF, ROOT, compose

from nuwa.models import family_names

PAGE = (ROOT / "docs/models.md").read_text(encoding="utf-8")
ROWS = [re.findall(r"`([\w.]+)`", line) for line in PAGE.splitlines() if line.startswith("| `")]
SHOWN = [row for row in ROWS if len(row) > 1]
TESTED = [row[0] for row in ROWS if len(row) == 1]


def test_every_family_and_every_model_has_its_place():
    assert sorted(row[0] for row in SHOWN) == sorted(TESTED) == list(family_names())
    files = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
    assert sorted(name for row in SHOWN for name in row[1:]) == files


@pytest.mark.parametrize(("family", "model"), [(row[0], name) for row in SHOWN for name in row[1:]])
def test_a_model_is_of_its_family(family, model):
    assert compose(f"model={model}").model.family == family
