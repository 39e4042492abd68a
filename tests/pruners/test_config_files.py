"""Every pruning method has one config file, whose values are the defaults of its class."""

from dataclasses import fields
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import pytest
from hydra.utils import get_class
from omegaconf import OmegaConf

import nuwa.pruners
from nuwa.pruners.base import Pruner
from nuwa.pruning.budget import Budget
from nuwa.pruning.calibration import CALIBRATIONS
from nuwa.pruning.coordinates import KINDS, Coordinates
from nuwa.pruning.positions import STRATEGIES

CONF = Path(__file__).parents[2] / "conf"
FILES = sorted((CONF / "pruner").glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_config_mirrors_the_class(file):
    config = dict(OmegaConf.load(file))
    kind = get_class(config.pop("_target_"))
    assert issubclass(kind, Pruner)
    assert kind.name == file.stem
    own = {field.name: field.default for field in fields(kind) if field.name not in ("budget", "seed")}
    assert config == own
    assert {key: type(value) for key, value in config.items()} == {key: type(value) for key, value in own.items()}
    assert kind.native_position in STRATEGIES and kind.native_calibration in CALIBRATIONS


def test_every_class_has_a_config():
    """Classes with a name of their own, over all files of the package; each is found as an attribute of it."""
    modules = [import_module(f"nuwa.pruners.{module.name}") for module in iter_modules(nuwa.pruners.__path__)]
    classes = {kind for module in modules for kind in vars(module).values() if isinstance(kind, type)}
    methods = {kind for kind in classes if issubclass(kind, Pruner) and "name" in vars(kind)}
    assert methods == {get_class(OmegaConf.load(file)["_target_"]) for file in FILES}
    for kind in methods:
        assert getattr(nuwa.pruners, kind.__name__) is kind and kind.__name__ in dir(nuwa.pruners)
    with pytest.raises(AttributeError, match="'Loudest'"):
        _ = nuwa.pruners.Loudest


def test_budget_files():
    budgets = {file.stem: Budget(**OmegaConf.load(file)) for file in (CONF / "budget").glob("*.yaml")}
    assert budgets == {
        "full": Budget(),
        **{f"avg{average}": Budget(average=average) for average in (64, 128, 192, 160, 320, 640)},
        **{f"ratio{percent}": Budget(ratio=percent / 100) for percent in (10, 15, 20, 25, 50, 75)},
    }


def test_calibration_files():
    values = {file.stem: OmegaConf.load(file)["kind"] for file in (CONF / "calibration").glob("*.yaml")}
    assert values == {kind: kind for kind in ("native", *CALIBRATIONS)}


def test_coordinates_files():
    values = {file.stem: OmegaConf.load(file) for file in (CONF / "coordinates").glob("*.yaml")}
    assert {name: value["kind"] for name, value in values.items()} == {kind: kind for kind in ("none", *KINDS)}
    assert all(Coordinates(**value) for name, value in values.items() if name != "none")


def test_position_files():
    values = {file.stem: OmegaConf.load(file)["strategy"] for file in (CONF / "position").glob("*.yaml")}
    assert values == {strategy: strategy for strategy in ("native", *STRATEGIES)}
