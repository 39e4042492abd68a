"""Pruning methods, one per file, as attributes by the names of their classes: ``nuwa.pruners.VisionZip``."""

from __future__ import annotations

from nuwa.pruners.base import Pruner
from nuwa.pruners.catalogue import find_method, method_names, method_of_class


def __getattr__(name: str) -> type[Pruner]:
    method = method_of_class(name) if name[0].isupper() else None
    if method is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return find_method(method)[0]


def __dir__() -> list[str]:
    return sorted([*globals(), *(find_method(name)[0].__name__ for name in method_names())])
