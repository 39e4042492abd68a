"""What is refused before any model loads, in one line that names the config key."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from transformers import AutoConfig

from nuwa.benchmarks.base import Benchmark
from nuwa.command import BAD_INPUT, print_error
from nuwa.config import BUILT, ConfigError, baseline_of, build, is_baseline, typed
from nuwa.engine.blocking import SOURCES, layer_range
from nuwa.evaluation.processes import check_sweep, current, is_shared, start
from nuwa.files import PACKAGE
from nuwa.models import family_names, family_of
from nuwa.models.base import Family
from nuwa.models.checkpoint import check_folder, find_folder
from nuwa.pruners.base import Pruner
from nuwa.pruning.budget import Budget
from nuwa.pruning.positions import STRATEGIES
from nuwa.schema import Accelerator


@dataclass
class Parts:
    """What a checked config builds without its model: the pruner, the benchmark and the model's options."""

    pruner: Pruner
    benchmark: Benchmark
    model: dict[str, Any]


class CheckFirst(Callback):
    """Hydra callback: refuses bad input before Hydra makes a folder for it. A sweep checks its points one by one.

    What is not refused and asks for several processes is handed to them here.
    """

    def on_run_start(self, config: DictConfig, **kwargs: object) -> None:
        """Check the one job."""
        _stop_if_refused(config, check_outputs, check, start)

    def on_multirun_start(self, config: DictConfig, **kwargs: object) -> None:
        """Check what all points share."""
        _stop_if_refused(config, check_outputs, check_sweep, start)


def _stop_if_refused(config: DictConfig, *checks: Callable[[DictConfig], object]) -> None:
    """Run ``checks``; Hydra swallows exceptions of callbacks, so a refusal ends the program here."""
    try:
        for one in checks:
            one(config)
    except BAD_INPUT as error:
        print_error(error)
        raise SystemExit(1) from error


def normalised(cfg: DictConfig) -> DictConfig:
    """The config as it is run: without pruning there is no budget to keep and no position to choose."""
    return baseline_of(cfg) if is_baseline(cfg) else cfg


def check(cfg: DictConfig) -> Parts:
    """Refuse what cannot work and build everything but the model.

    Raises:
        ValueError: an impossible value; the message names its key. BudgetError, if the method cannot reach the budget,
            MisfitError, if the model lacks what it needs.
    """
    cfg = normalised(cfg)
    _check_numbers(cfg)
    options = {group: typed(cfg, group) for group in BUILT}
    pruner = _build(options["pruner"], "pruner", budget=Budget(**cfg.budget), seed=cfg.seed)
    model = options["model"] | {"device": _device(cfg, options["model"].get("device", "auto"))}
    if is_shared(cfg) and model.get("device_map") is not None:
        raise ConfigError(f"model.device_map={model['device_map']}: trainer=ddp gives each process its own model")
    adapter = _adapter(model)
    if adapter is not None:
        pruner.check_tower(adapter.tower)
        if adapter.shape.image_tokens is not None:
            pruner.schedule(adapter.shape.image_tokens, adapter.shape.layers)
    _check_blocking(cfg, sys.maxsize if adapter is None else adapter.shape.layers)
    return Parts(pruner, _build(options["dataset"], "dataset"), model)


def check_outputs(cfg: DictConfig) -> Path:
    """The folder of all runs of this name, made and proved to be writable."""
    folder = Path(cfg.paths.outputs) / cfg.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(f"paths.outputs={cfg.paths.outputs}: cannot write to {folder} ({error.strerror})") from error
    return folder


def _check_numbers(cfg: DictConfig) -> None:
    for key, least in (
        ("limit", 1), ("trainer.batch_size", 1), ("trainer.num_workers", 0), ("trainer.prefetch", 0),
        ("trainer.cache_gb", 0), ("trainer.devices", 1), ("trainer.num_nodes", 1), ("generation.num_beams", 1),
        ("generation.max_new_tokens", 1), ("callbacks.pictures", 0), ("logger.table_rows", 0), ("seed", 0),
        ("probe.new_tokens", 1), ("probe.warmup", 0), ("probe.repeats", 1),
    ):  # fmt: skip
        value = OmegaConf.select(cfg, key)
        if value is not None and value < least:
            raise ConfigError(f"{key}={value}: must be at least {least}")
    if not cfg.probe.batch_sizes or min(cfg.probe.batch_sizes) < 1:
        raise ConfigError(f"probe.batch_sizes={list(cfg.probe.batch_sizes)}: needs sizes of at least 1")
    if cfg.generation.temperature <= 0:
        raise ConfigError(f"generation.temperature={cfg.generation.temperature}: must be positive")
    if not 0 < cfg.generation.top_p <= 1:
        raise ConfigError(f"generation.top_p={cfg.generation.top_p}: must be in (0, 1]")
    if cfg.position.strategy not in ("native", *STRATEGIES):
        known = ", ".join(("native", *STRATEGIES))
        raise ConfigError(f"position.strategy={cfg.position.strategy}: expected one of {known}")


def _check_blocking(cfg: DictConfig, depth: int) -> None:
    if cfg.blocking.source is None:
        return
    if cfg.blocking.source not in SOURCES:
        raise ConfigError(f"blocking.source={cfg.blocking.source}: expected one of {', '.join(SOURCES)}")
    try:
        layer_range(cfg.blocking.layers, depth)
    except ValueError as error:
        raise ConfigError(f"blocking.{error}") from error


def _build(options: dict[str, Any], group: str, **provided: object) -> Any:
    """Build a group; if its constructor refuses a value, the ConfigError names the group."""
    try:
        return build(options, **provided)
    except BAD_INPUT as error:
        if f"{group}." in str(error):
            raise
        raise ConfigError(f"{group}: {error}") from error


def _device(cfg: DictConfig, device: str) -> str:
    """Where the model goes: its own choice, or the trainer's; each of several processes has a GPU of its own."""
    accelerator = cfg.trainer.accelerator
    if device != "auto" or (accelerator == Accelerator.auto and not is_shared(cfg)):
        return device
    if accelerator == Accelerator.cpu or (accelerator == Accelerator.auto and not torch.cuda.is_available()):
        return "cpu"
    if not is_shared(cfg):
        return "cuda"
    wanted, found = cfg.trainer.devices, torch.cuda.device_count()
    if wanted is not None and wanted > found:
        raise ConfigError(f"trainer.devices={wanted}: this machine has {found} GPUs")
    return f"cuda:{current(cfg).local_rank}"


def _adapter(options: dict[str, Any]) -> Family | None:
    """What the config.json of a model in a folder tells; None for other models, which must load first."""
    path = options.get("path")
    if path is None or not (path.startswith((PACKAGE, ".", "/", "~")) or Path(path).exists() or path.count("/") != 1):
        return None
    folder = find_folder(path)
    check_folder(folder, family_names(), options.get("family"))
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    return family_of(config)
