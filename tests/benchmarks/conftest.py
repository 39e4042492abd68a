"""Fixtures of the tests that read published data sets."""

import pytest
from helpers import hub_server, judge_server
from helpers.published import keep_to


@pytest.fixture
def own_cache(monkeypatch, tmp_path):
    """``datasets`` neither asks the network nor leaves anything in the user's cache."""
    keep_to(tmp_path, monkeypatch)


@pytest.fixture
def hub(own_cache, monkeypatch, tmp_path):
    """A hub over ``tmp_path / "hub"``, which ``datasets`` takes for the one."""
    import datasets
    from huggingface_hub import constants

    with hub_server.serve(tmp_path / "hub") as running:
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", running.url)
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, running.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        for module in (datasets.config, constants):  # whatever HF_HUB_OFFLINE the tests are started with
            monkeypatch.setattr(module, "HF_HUB_OFFLINE", False)
        yield running


@pytest.fixture
def server():
    """A judge on this machine: (url, replies to give, what was asked)."""
    with judge_server.serve() as running:
        yield running
