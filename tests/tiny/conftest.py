"""One thread for the tests of the tiny model: its matrices are small, and waiting threads cost more than they save."""

from functools import cache

import pytest
import torch

from nuwa.tiny import data


@pytest.fixture(autouse=True)
def one_bank(monkeypatch):
    """Draw a small bank of captions once: it is a function of its seed and its size."""
    monkeypatch.setattr(data, "CAPTIONS", 256)
    monkeypatch.setattr(data, "caption_bank", BANK)


BANK = cache(data.caption_bank)


@pytest.fixture(autouse=True)
def one_thread():
    """Run a test on one thread and restore the number afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
