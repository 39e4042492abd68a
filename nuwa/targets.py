"""What a ``_target_`` may name: a pruner, a benchmark or a model of this package, or of one that is registered.

Configs and results travel between people, so they are data. A name outside the list is refused before anything is
imported. A package registers itself by an entry point, which its author writes and its user installs::

    [project.entry-points."nuwa.packages"]
    mine = "my_package"
"""

from __future__ import annotations

import re
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from nuwa.benchmarks.base import Benchmark
from nuwa.options import ConfigError
from nuwa.pruners.base import Pruner

REGISTRY = "nuwa.packages"
BUILT = ("model", "pruner", "dataset")
"""The groups of a config that build an object."""
_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)


@cache
def packages() -> tuple[str, ...]:
    """This package and the registered ones."""
    return ("nuwa", *sorted({entry.value for entry in entry_points(group=REGISTRY)}))


def find_target(target: object, group: str = "") -> Any:
    """The class that a ``_target_`` names, of a model the function; ``group`` is one of `BUILT`, "" any of them.

    Raises:
        ConfigError: it is in no package of the list, there is no such thing, or it is not what the group builds.
    """
    if target is None:
        raise ConfigError(f"{group}: nothing is chosen; give {group}=<name>, one of the files of conf/{group}")
    name = str(target)
    key = f"{group}._target_={name}".lstrip(".")
    module, _, attribute = name.rpartition(".")
    if not _NAME.fullmatch(name) or not any(f"{module}.".startswith(f"{package}.") for package in packages()):
        raise ConfigError(
            f"{key}: must name a class of {', '.join(packages())}; nothing else is imported. "
            f"A package of your own registers itself by an entry point in {REGISTRY}"
        )
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{key}: cannot be imported ({error})") from error
    if _group_of(found) not in ((group,) if group else BUILT):
        raise ConfigError(f"{key}: is no {group or 'pruner, benchmark or model'}")
    return found


def _group_of(found: Any) -> str | None:
    """The group of a config that may name this class or function."""
    if isinstance(found, type):
        return "pruner" if issubclass(found, Pruner) else "dataset" if issubclass(found, Benchmark) else None
    from nuwa.models.loading import ModelOptions  # transformers takes seconds to import

    options = getattr(found, "__wrapped__", None)
    return "model" if isinstance(options, type) and issubclass(options, ModelOptions) else None
