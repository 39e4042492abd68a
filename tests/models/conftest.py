"""A small random LLaVA, and its checkpoint folder as Hugging Face saves it."""

import shutil
from pathlib import Path

import pytest
from helpers.checkpoints import PROMPT, SMALL

from nuwa.models.random_vlm import load_random


@pytest.fixture
def offline(monkeypatch):
    """No test may ask the hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def small():
    return load_random(prompt=PROMPT, **SMALL)


@pytest.fixture(scope="module")
def saved(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    small.model.save_pretrained(folder)
    small.tokenizer.save_pretrained(folder)
    small.pictures.pil.save_pretrained(folder)
    return folder


@pytest.fixture
def checkpoint(saved, tmp_path):
    """A copy of the checkpoint that a test may break."""
    return Path(shutil.copytree(saved, tmp_path / "checkpoint"))
