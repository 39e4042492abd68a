"""What was recorded, made again: the method of a run or a file, and all parts of a run but its model."""

from __future__ import annotations

from pathlib import Path

import yaml
from omegaconf import DictConfig

from nuwa.config import completed
from nuwa.evaluation.check import Parts, build_pruner, check
from nuwa.evaluation.reading import content_of
from nuwa.evaluation.result import RESULT
from nuwa.evaluation.runs import Run
from nuwa.pruners.base import Pruner


def config_of_run(folder: Path) -> tuple[DictConfig, Run]:
    """The config of a finished run, and what else is known of it.

    Raises:
        ValueError: the folder holds no finished run, or one whose config this version does not know.
    """
    run = Run.read(folder)
    if not run.done:
        raise ValueError(f"{folder}: no finished run ({run.status}: {run.reason})")
    return completed(run.config, folder / RESULT), run


def parts_of_run(folder: Path) -> tuple[DictConfig, Parts]:
    """The config of a finished run and what it describes, as it is decided today; a fitted method as it was fitted.

    Raises:
        ValueError: there is no finished run, or what it describes cannot be made here.
    """
    cfg, run = config_of_run(folder)
    parts = check(cfg)
    parts.pruner = _fitted(parts.pruner, run)
    return cfg, parts


def pruner_of_run(folder: Path) -> Pruner:
    """The method of a finished run; neither its model nor its data are needed.

    Raises:
        ValueError: there is no finished run, or its method is not one of today's.
    """
    cfg, run = config_of_run(folder)
    return _fitted(build_pruner(cfg), run)


def pruner_of_file(path: Path) -> Pruner:
    """A method that `Pruner.save` wrote.

    Raises:
        ValueError, OSError: it cannot be read, or describes no method; the message names the file.
    """
    try:
        content = yaml.safe_load(content_of(path))
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: no YAML: {error}") from error
    if not isinstance(content, dict) or set(content) != {"pruner", "budget", "seed"}:
        raise ValueError(f"{path}: no saved method; it has to hold pruner, budget and seed, as Pruner.save writes them")
    return build_pruner(completed(content, path))


def _fitted(pruner: Pruner, run: Run) -> Pruner:
    return pruner.turned(run.fitted["value"]) if run.fitted else pruner
