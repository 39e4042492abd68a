"""One thread for the tests of the tiny model: its matrices are small, and waiting threads cost more than they save."""

import pytest
import torch

from nuwa.tiny import pictures


@pytest.fixture(autouse=True)
def small_bank(monkeypatch):
    """Draw a small bank of captions."""
    monkeypatch.setattr(pictures, "CAPTIONS", 256)


@pytest.fixture(autouse=True)
def one_thread():
    """Run a test on one thread and restore the number afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
