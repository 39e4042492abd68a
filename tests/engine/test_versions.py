"""Which transformers a session was tested with, who says so, and which device Apple's machines get."""

from __future__ import annotations

import re
import warnings

import pytest
import torch
import yaml
from helpers.families import FAMILIES
from helpers.jobs import ROOT
from helpers.support import Fixed
from packaging.specifiers import SpecifierSet

import nuwa
from nuwa.engine import guards, session
from nuwa.models.random_vlm import RandomModel

PINNED = re.search(r"^transformers==(.+)$", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE)[1]


@pytest.fixture(autouse=True)
def anew():
    guards.warn_of_version.cache_clear()
    yield
    guards.warn_of_version.cache_clear()


def enter_twice():
    for _ in range(2):
        with nuwa.prune(FAMILIES["llava"].model(), Fixed(3)):
            pass


def test_a_newer_version_is_spoken_of_once(monkeypatch):
    guards.warn_of_version.cache_clear()
    monkeypatch.setattr(session.transformers, "__version__", "5.99.0")
    with pytest.warns(UserWarning, match=rf"transformers 5\.99\.0 is newer than {re.escape(PINNED)}") as said:
        enter_twice()
    assert len(said) == 1


@pytest.mark.parametrize("version", ["5.19.0", PINNED])
def test_others_are_not(version, monkeypatch):
    guards.warn_of_version.cache_clear()
    monkeypatch.setattr(session.transformers, "__version__", version)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        enter_twice()


def test_pin_package_and_ci_agree():
    assert guards.NEWEST == PINNED
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    allowed = SpecifierSet(re.search(r'"transformers([^"]+)"', project)[1])
    assert PINNED in allowed and "5.19.0" in allowed and "5.18.0" not in allowed
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text("utf-8"))["jobs"]
    assert jobs["transformers"]["strategy"]["matrix"]["version"] == ["oldest", "newest"]
    assert "newest" in jobs["transformers"]["continue-on-error"]
    assert {"run": "python launch.py"} in jobs["macos"]["steps"]


def test_apples_machines_get_the_cpu(monkeypatch):
    """Lightning's own auto would take MPS; it is told the device of the model."""
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    place, dtype, _ = RandomModel(prompt="{images}{text}").resolved()
    assert (place.type, dtype) == (("cuda", None) if torch.cuda.is_available() else ("cpu", torch.float32))
