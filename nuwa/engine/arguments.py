"""Reads the calls of transformers' models by meaning: 5.24 names the cache otherwise than 5.19 to 5.23."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any, cast

from torch import nn
from transformers import Cache

_CACHE = ("cache", "past_key_values")


@functools.cache
def _signature(kind: Any) -> inspect.Signature:
    return inspect.signature(kind.forward)


def arguments_of(module: nn.Module, args: tuple, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """What a module was called with, by name."""
    given = dict(_signature(cast(Any, type(module))).bind(module, *args, **kwargs).arguments)
    return given | given.pop("kwargs", {})


def cache_of(given: Mapping[str, Any]) -> Cache | None:
    """The cache among a call's arguments or in its output."""
    return next((given[name] for name in _CACHE if given.get(name) is not None), None)


def with_cache(module: nn.Module, kwargs: Mapping[str, Any], cache: Cache | None) -> dict[str, Any]:
    """Arguments with another cache, by the name that the module has for it."""
    name = next(name for name in _CACHE if name in _signature(cast(Any, type(module))).parameters)
    return {key: value for key, value in kwargs.items() if key not in _CACHE} | {name: cache}
