"""Keeps the model of a process: jobs with the same options share it, and two models are never in memory at once."""

from __future__ import annotations

import gc
import json
from typing import Any

import torch

from nuwa.config import build
from nuwa.models.loaded import LoadedModel

_loaded: dict[str, LoadedModel] = {}


def load_once(options: dict[str, Any]) -> LoadedModel:
    """The model of the last call; with other options a new one, loaded after the old one has been freed."""
    key = json.dumps(options, sort_keys=True)
    if key not in _loaded:
        _loaded.clear()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        _loaded[key] = build(options)
    return _loaded[key]
