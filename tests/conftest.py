"""One thread for each process: small models gain nothing from more, and threads that spin cost twice the time."""

import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Cases of the engine's matrix whose family is one of ``LATER`` are slow."""
    matrix = [item for item in items if item.path.parent.name in ("engine", "analysis") and hasattr(item, "callspec")]
    if matrix:
        from helpers.families import LATER

        for item in matrix:
            if set(LATER) & set(item.callspec.id.split("-")):
                item.add_marker(pytest.mark.slow)
