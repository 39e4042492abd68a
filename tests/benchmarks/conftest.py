"""Fixtures of the tests that read published data sets."""

import pytest


@pytest.fixture
def own_cache(monkeypatch, tmp_path):
    """``datasets`` neither asks the network nor leaves anything in the user's cache."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
