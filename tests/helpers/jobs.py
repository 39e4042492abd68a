"""Configs of jobs that run in a second: LLaVA-1.5's architecture at toy size, random weights, few scenes."""

from functools import lru_cache
from pathlib import Path

import hydra
from omegaconf import DictConfig

from nuwa.config import register

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"
SMALL = (
    "model=llava_1_5_random",
    "model.layers=4",
    "model.hidden_size=32",
    "model.intermediate_size=64",
    "model.vision_hidden_size=32",
    "model.vision_layers=2",
    "model.image_size=112",
    "budget.average=16",
    "dataset.samples=6",
    "callbacks=none",
    "logger=none",
    "trainer=cpu",
    "trainer.batch_size=2",
)


def compose(*overrides: str) -> DictConfig:
    """The config that ``python launch.py <overrides>`` runs."""
    return _compose(overrides).copy()


@lru_cache
def _compose(overrides: tuple[str, ...]) -> DictConfig:
    register()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose("config", list(overrides))


def small(outputs: Path, *overrides: str) -> DictConfig:
    """A job on the toy model that writes below ``outputs``."""
    cfg = compose(*SMALL, *overrides)  # composed once, wherever it writes
    cfg.paths.outputs = str(outputs)
    return cfg
