"""Loggers from ``conf/logger``: W&B (offline unless told otherwise), CSV, TensorBoard.

They get a copy of what the run folder holds, so a logger that fails costs a warning and never a result.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from omegaconf import DictConfig

from nuwa.config import plain
from nuwa.evaluation.journal import JOURNAL, Row
from nuwa.evaluation.runs import Run
from nuwa.evaluation.unharmed import unharmed
from nuwa.evaluation.wandb_media import run_media
from nuwa.schema import LoggerKind

START_SECONDS = 30
"""How long to wait for a W&B server before the run goes on offline."""
STAGING = "WANDB_DATA_DIR"
RUNNING = "running"
"""What the names of numbers begin with that are logged while a run works."""
_COSTS = ("n", "n_failed", "tokens_entering", "tokens_leaving", "llm_tflops", "metric_mflops", "kv_cache_bytes")
_TIMES = ("seconds_per_sample", "answering_seconds", "job_seconds", "peak_memory_mb", "peak_gpu_memory_mb")
"""Numbers of a result, and of its timings, that are compared between runs."""


@contextmanager
def run_logger(cfg: DictConfig, folder: Path, key: str) -> Iterator[Logger | None]:
    """The logger of one run; leaving finishes a W&B run, so that the next job of a sweep gets its own."""
    kind = cfg.logger.kind
    if kind == LoggerKind.wandb:
        chosen = Run.of({"config": plain(cfg)}).choices
        about = {"id": key, "name": chosen.title, "group": cfg.name, "job_type": "eval", "config": told(cfg)}
        about["tags"] = [*chosen.flat.values(), *cfg.tags]
        with wandb_run(cfg.logger, folder, **about) as run:
            yield None if run is None else WandbLogger(experiment=run)
        return
    makers: dict[LoggerKind, Callable[..., Logger]] = {
        LoggerKind.csv: partial(CSVLogger, flush_logs_every_n_steps=1),
        LoggerKind.tensorboard: partial(TensorBoardLogger, default_hp_metric=False),
    }
    logger, status = makers[kind](folder, name=kind.name, version="") if kind in makers else None, "failed"
    try:
        yield logger
        status = "success"
    finally:
        if logger is not None:
            with unharmed("logger: its files were not finished"):
                logger.finalize(status)


@contextmanager
def wandb_run(options: DictConfig, folder: Path, **about: Any) -> Iterator[Any | None]:
    """A W&B run below ``folder``, offline if the server does not answer; None if it cannot be started.

    Lightning's own way of starting it would take the whole process offline.
    """
    import wandb  # takes a second, and other loggers do not need it

    settings = wandb.Settings(silent=True, console="off", x_disable_stats=True, init_timeout=START_SECONDS)
    chosen = {"project": options.project, "entity": options.entity, "dir": folder, "settings": settings, **about}
    modes = [{"mode": "offline"}] if options.offline else [{"mode": "online", "resume": "allow"}, {"mode": "offline"}]
    for old in (folder / "wandb").glob(f"*run-*-{about['id']}"):  # of a killed run: `wandb sync` would stop at it
        shutil.rmtree(old, ignore_errors=True)
    with _staging_in(folder):
        run = next(filter(None, (_started(chosen | mode) for mode in modes)), None)
        ended = 1
        try:
            yield run
            ended = 0
        finally:
            with unharmed("logger: the run was not finished"):
                wandb.finish(exit_code=ended)
            if wandb.run is not None:
                _restart()


def _started(options: dict[str, Any]) -> Any | None:
    """A W&B run; None if it cannot be started."""
    import wandb

    with unharmed(f"logger: no {options['mode']} run"):
        return wandb.init(**options)
    _restart()
    return None


def _restart() -> None:
    """Stop wandb's own process, which may be dead or hold on to a run; the next run starts another."""
    import wandb

    with suppress(Exception):
        wandb.teardown()


@contextmanager
def _staging_in(folder: Path) -> Iterator[None]:
    """Keep wandb's copies of files to be synced below ``folder``; in HOME nobody would remove them.

    Only the environment can tell wandb so; a place that the user has set there stays.
    """
    with ExitStack() as stack:
        if STAGING not in os.environ:
            os.environ[STAGING] = str(folder / "wandb")
            stack.callback(os.environ.pop, STAGING)
        yield


def told(cfg: DictConfig) -> dict[str, Any]:
    """What a dashboard sorts and groups runs by: the words of its choices, and below ``options`` the whole config."""
    config = plain(cfg)
    return {**Run.of({"config": config}).choices.flat, "options": config}


def log_running(logger: Logger, numbers: Mapping[str, float], samples: int) -> None:
    """Numbers of a run that has answered so many ``samples``; they are called ``running/...``."""
    named = {f"{RUNNING}/{name}": number for name, number in numbers.items()}
    if isinstance(logger, WandbLogger):
        axis = f"{RUNNING}/samples"
        logger.experiment.define_metric(axis, hidden=True, summary="none")
        for name in named:  # a dot in a name is a path to W&B; what is said twice counts once
            logger.experiment.define_metric(name.replace(".", r"\."), step_metric=axis, summary="none")
        logger.experiment.log(named | {axis: samples})
    else:
        logger.log_metrics(named, samples)


def log_result(
    logger: Logger | None, cfg: DictConfig, result: dict[str, Any], rows: Sequence[Row], folder: Path
) -> None:
    """Config and metrics; on W&B also the cells, the predictions (a table and an artifact) and the run's pictures."""
    if logger is None:
        return
    with unharmed("logger: the result was not logged"):
        config = told(cfg) | {name: result[name] for name in ("environment", "run_key")}
        summary = flat_summary(result)
        if isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(config, summary, result["n"])
            return
        logger.log_hyperparams(config)
        if isinstance(logger, WandbLogger):  # a number that is logged once would be a chart with a single dot
            logger.experiment.summary.update(summary)
            _log_media(logger.experiment, cfg, result | {"config": plain(cfg)}, rows, folder)
        else:
            logger.log_metrics(summary, result["n"])


def _log_media(run: Any, cfg: DictConfig, result: dict[str, Any], rows: Sequence[Row], folder: Path) -> None:
    import wandb

    run.log(run_media(cfg, result, rows, folder))
    artifact = wandb.Artifact(f"predictions-{result['run_key']}", "predictions", metadata=flat_summary(result))
    artifact.add_file(str(folder / JOURNAL))
    run.log_artifact(artifact)


def flat_summary(result: dict[str, Any]) -> dict[str, float]:
    """The few numbers of a result that people compare between runs.

    How the answers were read and how long a model took to load are none: tables have the first, result.json the second.
    """
    found = {name: result[name] for name in _COSTS if result.get(name) is not None} | result["metrics"]
    kept = {name: value for name, value in result.get("retention", {}).items() if not name.endswith("/parsed")}
    found |= {f"retention/{name}": value["value"] for name, value in kept.items()}
    found |= {f"timings/{name}": result["timings"][name] for name in _TIMES if result["timings"].get(name) is not None}
    return found | {f"speed/{name}": value for name, value in Run.of(result).times.items()}
