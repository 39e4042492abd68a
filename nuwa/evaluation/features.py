"""What jobs on the same pictures share: vision features and decisions on disk, and encoded batches in memory."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from omegaconf import DictConfig

import nuwa
from nuwa.config import READ, choices
from nuwa.engine.feature_cache import GIGABYTE, FeatureCache
from nuwa.evaluation.result import environment
from nuwa.files import fingerprint
from nuwa.models.loading import LoadedModel

CPU_GIGABYTES = 4


def feature_cache(cfg: DictConfig, loaded: LoadedModel) -> FeatureCache | None:
    """The cache of a job; None if it may take no space, which is the default on a GPU.

    Jobs share features if they have the same model (from the hub: the same snapshot), data, packages, device (on CPUs:
    the instructions that torch uses), kernel, threads and code of this package, and if their methods read the same
    files.
    """
    gigabytes = _gigabytes(cfg, loaded)
    if not gigabytes:
        return None
    chosen = choices(cfg)
    known = {key: value for key, value in environment(loaded.model).items() if key != "git_commit"}
    code = fingerprint(Path(nuwa.__file__).parent, (".py",))
    model = chosen["model"], loaded.model.name_or_path
    known["cpu"] = torch.backends.cpu.get_cpu_capability()
    known["files"] = {key: value for key, value in chosen["pruner"].items() if f"pruner.{key}" in READ and value}
    space = json.dumps([model, chosen["dataset"], known, code], sort_keys=True, default=str)
    return FeatureCache(Path(cfg.paths.features), space, int(gigabytes * GIGABYTE))


def batches_key(cfg: DictConfig, loaded: LoadedModel) -> str:
    """What the encoded batches of a job depend on; empty where there is no cache, so that none are kept."""
    if not _gigabytes(cfg, loaded):
        return ""
    chosen = choices(cfg)
    samples = {name: chosen.get(name) for name in ("model", "dataset", "frames", "limit")}
    place = loaded.model.name_or_path, str(loaded.device), str(loaded.model.dtype)
    return json.dumps([samples, place, cfg.trainer.batch_size], sort_keys=True, default=str)


def _gigabytes(cfg: DictConfig, loaded: LoadedModel) -> float:
    """How much the caches may hold."""
    if cfg.trainer.cache_gb is not None:
        return cfg.trainer.cache_gb
    return CPU_GIGABYTES if loaded.device.type == "cpu" else 0
