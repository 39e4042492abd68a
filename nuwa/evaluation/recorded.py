"""What was recorded, made again: the method of a run or a file, and all parts of a run but its model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml
from omegaconf import DictConfig

from nuwa import prune
from nuwa.benchmarks.base import Benchmark
from nuwa.config import completed
from nuwa.engine.blocking import configured_block
from nuwa.engine.session import PruningSession
from nuwa.evaluation.check import build_pruner, check, pruning_options
from nuwa.evaluation.features import feature_cache
from nuwa.evaluation.model_cache import load_once
from nuwa.evaluation.reading import content_of
from nuwa.evaluation.result import RESULT
from nuwa.evaluation.runs import Run, finished_run
from nuwa.models.loaded import LoadedModel
from nuwa.pruners.base import Pruner


@dataclass(frozen=True)
class ReopenedRun:
    """An open session that decides as a run's config does today, its model, and its samples, the first ``count``."""

    session: PruningSession
    loaded: LoadedModel
    benchmark: Benchmark
    count: int


def config_of_run(folder: Path) -> tuple[DictConfig, Run]:
    """The config of a finished run, and what else is known of it.

    Raises:
        ValueError: the folder holds no finished run, or one whose config this version does not know.
    """
    run = finished_run(folder)
    return completed(run.config, folder / RESULT), run


@contextmanager
def reopened(folder: Path) -> Iterator[ReopenedRun]:
    """A finished run, ready to read its prompts again; a fitted method as it was fitted.

    Raises:
        ValueError: there is no finished run, or what it describes cannot be made here.
    """
    cfg, run = config_of_run(folder)
    parts = check(cfg)
    loaded = load_once(parts.model)
    pruner, cache = _fitted(parts.pruner, run), feature_cache(cfg, loaded)
    with (
        prune(loaded.model, pruner, cache=cache, **pruning_options(cfg)) as session,
        configured_block(session, **cfg.blocking),
    ):
        yield ReopenedRun(session, loaded, parts.benchmark, parts.benchmark.take(cfg.limit))


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
