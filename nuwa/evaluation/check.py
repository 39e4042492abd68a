"""Checks of a config before any model loads; a refusal is one line that names the config key."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from transformers import AutoConfig

from nuwa.benchmarks.base import Benchmark
from nuwa.command import BAD_INPUT
from nuwa.config import ConfigError, build, check_model, check_ranges, normalised, typed
from nuwa.engine.blocking import SOURCES, layer_range
from nuwa.engine.calibration import check_calibration, check_position
from nuwa.engine.coordinates import check_coordinates
from nuwa.evaluation.processes import current, is_shared
from nuwa.files import PACKAGE
from nuwa.models import family_names, family_of
from nuwa.models.base import Family
from nuwa.models.checkpoint import check_folder, find_folder, usable
from nuwa.pruners.base import Pruner
from nuwa.pruning.budget import Budget, BudgetError
from nuwa.pruning.coordinates import Coordinates
from nuwa.schema import Accelerator, Engine
from nuwa.serve.job import ServedJob, check_vllm, check_wishes, served_job
from nuwa.targets import BUILT


@dataclass
class Parts:
    """What a config describes, before the model is loaded: the pruner, the benchmark and the model's options.

    ``served``: the same for vLLM, where it answers.
    """

    pruner: Pruner
    benchmark: Benchmark
    model: dict[str, Any]
    served: ServedJob | None = None


def check(cfg: DictConfig) -> Parts:
    """Refuse what cannot work and build everything except the model.

    Raises:
        ValueError: an impossible value; the message names its key. It is a BudgetError if the method cannot reach the
            budget, and a MisfitError if the model lacks what the method needs.
    """
    cfg = normalised(cfg)
    check_ranges(cfg)
    options = {group: typed(cfg, group) for group in BUILT}
    pruner = build_pruner(cfg)
    coordinates = pruning_options(cfg)["coordinates"]
    model = options["model"] | {"device": _device(cfg, options["model"].get("device", "auto"))}
    if is_shared(cfg) and model.get("device_map") is not None:
        raise ConfigError(f"model.device_map={model['device_map']}: trainer=ddp gives each process its own model")
    adapter = _adapter(model)
    linear = adapter is not None and adapter.shape.attention is not None
    check_position(cfg.position.strategy, pruner)
    check_calibration(pruner.calibration_of(cfg.calibration.kind), pruner, options["model"].get("attention"), linear)
    check_model(model)
    if adapter is not None:
        adapter.check_deepstack(cfg.position.deepstack)
        pruner.check_tower(adapter.tower)
        pruner.check_llm(adapter.shape)
        check_coordinates(coordinates, pruner, adapter.grid, adapter.shape.layers)
        tokens = adapter.shape.image_tokens
        if tokens is not None and fits(pruner):
            pruner.budget.tokens(tokens)
        elif tokens is not None:
            pruner.schedule_on(tokens, adapter.shape)
    _check_blocking(cfg, sys.maxsize if adapter is None else adapter.shape.layers)
    served = _served(cfg) if cfg.trainer.engine == Engine.vllm else None
    return Parts(pruner, _build(options["dataset"], "dataset"), model, served)


def _served(cfg: DictConfig) -> ServedJob:
    """The job as vLLM is told of it; what it cannot give is refused by key."""
    wishes = {
        "generation.do_sample=true": cfg.generation.do_sample,
        f"generation.num_beams={cfg.generation.num_beams}": cfg.generation.num_beams > 1,
        "probe.speed=true": cfg.probe.speed,
        "probe.memory=true": cfg.probe.memory,
        f"trainer.devices={cfg.trainer.devices}": is_shared(cfg),
    }
    for wish, asked in wishes.items():
        if asked:
            raise ConfigError(f"{wish}: trainer=vllm cannot give this; leave it out, or use another trainer")
    served = served_job(cfg)
    check_wishes(cfg.trainer.vllm)
    check_vllm()
    return served


def fits(pruner: Pruner) -> bool:
    """Whether a run has to find the value of the pruner's dial that spends its budget."""
    return pruner.dial is not None and not pruner.budget.full


def check_fitted(pruner: Pruner) -> None:
    """Refuse a budget that only a run finds the way to, where there is none.

    Raises:
        ConfigError: the pruner lets every picture decide.
    """
    if pruner.dial is not None and fits(pruner):
        raise ConfigError(
            f"budget: pruner {pruner.name} lets every picture decide, and its budget is met on a data set, by nuwa "
            f"run; here give budget=full and pruner.{pruner.dial.option}"
        )


def pruning_options(cfg: DictConfig) -> dict[str, Any]:
    """What a session does with the tokens that stay, as arguments of `nuwa.prune`."""
    kind, share = cfg.coordinates.kind, cfg.coordinates.share
    return {
        "position": cfg.position.strategy,
        "calibration": cfg.calibration.kind,
        "coordinates": None if kind == "none" else Coordinates(kind, share),
        "deepstack": cfg.position.deepstack,
    }


def build_pruner(cfg: DictConfig) -> Pruner:
    """The method of a config, with its budget and seed.

    Raises:
        ConfigError: an unknown option or an impossible value.
    """
    return _build(typed(cfg, "pruner"), "pruner", budget=_budget(cfg), seed=cfg.seed)


def _budget(cfg: DictConfig) -> Budget:
    """The budget; an impossible number is a ConfigError, not a budget that some method cannot reach."""
    try:
        return Budget(cfg.budget.average, cfg.budget.ratio)
    except BudgetError as error:
        raise ConfigError(str(error)) from error


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
    """The device of the model, from ``model.device`` or ``trainer``; each of several processes has its own GPU."""
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
    """The family that the config.json in a model's folder describes; None for other models, which must load first."""
    path = options.get("path")
    if path is None or not (path.startswith((PACKAGE, ".", "/", "~")) or Path(path).exists() or path.count("/") != 1):
        return None
    folder = find_folder(path)
    check_folder(folder, family_names(), options.get("family"))
    with usable(f"{folder / 'config.json'}"):
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        family = family_of(config)
        _ = family.tower, family.shape  # what later checks ask for
    return family
