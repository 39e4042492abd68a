"""Finds methods by name: one file of ``conf/pruner`` each, whose ``_target_`` is the class.

Nothing but the two files of a method has to know of it.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from nuwa.pruners.base import Pruner


def conf_folder() -> Path:
    """The folder of config files: inside the package in a wheel, beside it in a clone."""
    package = Path(__file__).parents[1]
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def method_names() -> list[str]:
    """The names of all methods."""
    return sorted(path.stem for path in (conf_folder() / "pruner").glob("*.yaml"))


def find_method(name: str) -> tuple[type[Pruner], dict[str, Any]]:
    """The class of a method and the options of its config file.

    Raises:
        ValueError: there is no such method.
    """
    path = conf_folder() / "pruner" / f"{name}.yaml"
    if not path.is_file():
        raise ValueError(f"pruner {name!r} is unknown; choose one of {', '.join(method_names())}")
    options = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    module, _, kind = options.pop("_target_").rpartition(".")
    return getattr(import_module(module), kind), options
