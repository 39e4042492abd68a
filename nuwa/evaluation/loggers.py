"""Loggers from ``conf/logger``: W&B (offline unless told otherwise), CSV, TensorBoard.

They get a copy of what the run folder holds, so a logger that fails costs a warning and never a result.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
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


@contextmanager
def run_logger(cfg: DictConfig, folder: Path, key: str) -> Iterator[Logger | None]:
    """The logger of one run; leaving finishes a W&B run, so that the next job of a sweep gets its own."""
    kind = cfg.logger.kind
    if kind == LoggerKind.wandb:
        chosen = Run.of({"config": plain(cfg)}).choices
        about = {"id": key, "name": chosen.title, "group": cfg.name, "job_type": "eval"}
        about["tags"] = [*chosen.flat.values(), *cfg.tags]
        with wandb_run(cfg.logger, folder, **about) as run:
            yield None if run is None else WandbLogger(experiment=run)
        return
    makers = {LoggerKind.csv: CSVLogger, LoggerKind.tensorboard: TensorBoardLogger}
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


def log_result(
    logger: Logger | None, cfg: DictConfig, result: dict[str, Any], rows: Sequence[Row], folder: Path
) -> None:
    """Config and metrics; on W&B also the cells, the predictions (a table and an artifact) and the run's pictures."""
    if logger is None:
        return
    config = plain(cfg)
    with unharmed("logger: the result was not logged"):
        told = {name: result[name] for name in ("environment", "run_key")}
        # the words stand beside the groups of options of the same names, so that runs can be sorted by them
        words = {f"choice/{name}": word for name, word in Run.of(result | {"config": config}).choices.flat.items()}
        logger.log_hyperparams(config | told | words)
        logger.log_metrics(flat_summary(result))
        if isinstance(logger, WandbLogger):
            _log_media(logger.experiment, cfg, result | {"config": config}, rows, folder)


def _log_media(run: Any, cfg: DictConfig, result: dict[str, Any], rows: Sequence[Row], folder: Path) -> None:
    import wandb

    run.log(run_media(cfg, result, rows, folder))
    artifact = wandb.Artifact(f"predictions-{result['run_key']}", "predictions", metadata=flat_summary(result))
    artifact.add_file(str(folder / JOURNAL))
    run.log_artifact(artifact)


def flat_summary(result: dict[str, Any]) -> dict[str, float]:
    """The few numbers of a result that people compare between runs."""
    names = ("n", "n_failed", "tokens_entering", "tokens_leaving", "llm_tflops", "metric_mflops", "kv_cache_bytes")
    summary = {name: result[name] for name in names if name in result} | result["metrics"]
    summary |= {f"retention/{name}": value["value"] for name, value in result.get("retention", {}).items()}
    return summary | {f"timings/{name}": value for name, value in result["timings"].items() if value is not None}
