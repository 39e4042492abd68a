"""The model of a process: jobs that want the same share it, and there is never room for two."""

from __future__ import annotations

import gc
import json
from typing import Any

import torch

from nuwa.config import build
from nuwa.models.loaded import LoadedModel

_loaded: dict[str, LoadedModel] = {}


def load(options: dict[str, Any]) -> LoadedModel:
    """The model of the last call or, if its options differ, a new one in its place, once the old one is gone."""
    key = json.dumps(options, sort_keys=True)
    if key not in _loaded:
        _loaded.clear()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        _loaded[key] = build(options)
    return _loaded[key]
