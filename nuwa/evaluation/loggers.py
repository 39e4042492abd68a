"""Lightning loggers from ``conf/logger``: W&B (offline unless told otherwise), CSV, TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from omegaconf import DictConfig, OmegaConf

from nuwa.config import LoggerKind
from nuwa.evaluation.journal import Row

COLUMNS = ("id", "task", "prompt", "target", "prediction", "scores", "kept", "status", "reason")


@contextmanager
def run_logger(cfg: DictConfig, folder: Path, key: str) -> Iterator[Logger | None]:
    """The logger of one run; a W&B run is finished on leaving, so that the next job of a sweep gets its own."""
    kind = cfg.logger.kind
    if kind == LoggerKind.wandb:
        with _wandb_run(cfg, folder, key) as run:
            yield WandbLogger(experiment=run)
        return
    makers = {LoggerKind.csv: CSVLogger, LoggerKind.tensorboard: TensorBoardLogger}
    logger = makers[kind](folder, name=kind.name, version="") if kind in makers else None
    yield logger
    if logger is not None:
        logger.finalize("success")


@contextmanager
def _wandb_run(cfg: DictConfig, folder: Path, key: str) -> Iterator[Any]:
    """A W&B run named by the run key. Made here and not by Lightning, which would turn the whole process offline."""
    import wandb  # takes a second, and other loggers do not need it

    run = wandb.init(
        project=cfg.logger.project,
        entity=cfg.logger.entity,
        dir=folder,
        id=key,
        name=f"{cfg.model.get('name')}-{cfg.pruner._target_.rsplit('.', 1)[-1]}-{key[:4]}",
        group=cfg.name,
        job_type="eval",
        tags=list(cfg.tags) or None,
        mode="offline" if cfg.logger.offline else "online",
        resume=None if cfg.logger.offline else "allow",
        settings=wandb.Settings(silent=True, console="off", x_disable_stats=True),
    )
    try:
        yield run
    finally:
        wandb.finish()


def log_result(
    logger: Logger | None, cfg: DictConfig, result: dict[str, Any], rows: Sequence[Row], pictures: Path
) -> None:
    """Config, metrics and, on W&B, the predictions table and the pictures."""
    if logger is None:
        return
    config = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    logger.log_hyperparams(config | {"environment": result["environment"], "run_key": result["run_key"]})
    summary = flat_summary(result)
    logger.log_metrics(summary)
    if isinstance(logger, WandbLogger):
        logger.experiment.summary.update(summary)
        cut = rows[: cfg.logger.table_rows]
        logger.log_table("predictions", list(COLUMNS), [[_cell(row.get(column)) for column in COLUMNS] for row in cut])
        drawn = sorted(pictures.glob("*.png"))[: cfg.callbacks.pictures]
        if drawn:
            logger.log_image("kept_tokens", [str(file) for file in drawn], caption=[file.stem for file in drawn])


def flat_summary(result: dict[str, Any]) -> dict[str, float]:
    """The few numbers of a result that are worth comparing between runs."""
    names = ("n", "n_failed", "tokens_entering", "tokens_leaving", "llm_tflops", "metric_mflops", "kv_cache_bytes")
    summary = {name: result[name] for name in names if name in result} | result["metrics"]
    summary |= {f"retention/{name}": value["value"] for name, value in result.get("retention", {}).items()}
    return summary | {f"timings/{name}": value for name, value in result["timings"].items() if value is not None}


def _cell(value: Any) -> str:
    """W&B tables take one type per column; text is the one that holds everything."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
