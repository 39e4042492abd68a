"""What a served model is told about its pruner, in the one key ``nuwa`` of its config; and what cannot be served.

An engine makes room for a picture's tokens before anybody has looked at the picture, and keeps it through all layers.
So a method can be served if the size of a picture says how many tokens stay, if they stay in every layer, and if the
question has no say.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from nuwa import load_pruner
from nuwa.engine.calibration import check_calibration, check_position
from nuwa.engine.vision import schedule_for
from nuwa.models.base import Family
from nuwa.models.processors import PictureOptions
from nuwa.options import ConfigError, check_options
from nuwa.pruners.base import MisfitError, Pruner
from nuwa.pruners.catalogue import method_of_class
from nuwa.pruners.pooling import GridPruner, pooled_grid
from nuwa.pruning.budget import Budget
from nuwa.pruning.flops import ModelShape
from nuwa.pruning.layout import Grid
from nuwa.pruning.positions import STRATEGIES

CONFIG_KEY = "nuwa"
"""The key of a model's config that holds all of it."""
ARCHITECTURE = "NuwaForConditionalGeneration"
"""The name under which the plugin is known to vLLM."""
FAMILIES = ("llava", "qwen2_vl", "qwen2_5_vl", "qwen3_vl")
"""The families that can be served."""
READING = {"image": {"image_mode": None}}
"""How vLLM reads files: in their own mode. It would lay transparent pictures on white and clip grey ones of 16 bits."""
TRIED = 1024
"""Tokens of a picture on which a schedule is tried where pictures differ in size."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """The value of the key ``nuwa``.

    ``pruner`` is a name in ``conf/pruner`` and ``options`` are what differs from its file; ``average`` or ``ratio`` is
    the budget; ``pictures`` are options of ``conf/model`` about pictures; ``attention`` is the kernel of the vision
    tower.
    """

    pruner: str = "none"
    options: dict[str, Any] | None = None
    average: float | None = None
    ratio: float | None = None
    seed: int = 0
    position: str = "native"
    pictures: dict[str, Any] | None = None
    attention: str = "sdpa"

    @classmethod
    def read(cls, value: object) -> Served:
        """The settings in a model's config.

        Raises:
            ConfigError: there are none, one is unknown or of the wrong type, or a pruner has no budget.
        """
        if not isinstance(value, Mapping):
            raise ConfigError(f"{CONFIG_KEY}={value!r}: a served model has its settings there; nuwa serve --print")
        served = cls(**check_options(cls, value, CONFIG_KEY))
        if served.pruner != cls.pruner and not value.keys() & {"average", "ratio"}:
            raise ConfigError(f"{CONFIG_KEY}.average: pruner {served.pruner} needs a budget (null: all tokens stay)")
        check_options(PictureOptions, served.pictures or {}, f"{CONFIG_KEY}.pictures")
        return served

    @classmethod
    def of(cls, pruner: Pruner, position: str, pictures: Mapping[str, Any], attention: str) -> Served:
        """The settings that say how to make ``pruner`` again.

        Raises:
            ConfigError: no file of ``conf/pruner`` is about its class.
        """
        name = method_of_class(type(pruner).__name__)
        if name is None:
            raise ConfigError(
                f"pruner: {type(pruner).__name__} has no file in conf/pruner, by which it could be served"
            )
        usual = load_pruner(name, pruner.budget)
        own = {option.name: getattr(pruner, option.name) for option in fields(pruner)}
        options = {key: value for key, value in own.items() if key not in ("budget", "seed")}
        return cls(
            pruner=name,
            options={key: value for key, value in options.items() if value != getattr(usual, key)} or None,
            average=pruner.budget.average,
            ratio=pruner.budget.ratio,
            seed=pruner.seed,
            position=position,
            pictures=dict(pictures) or None,
            attention=attention,
        )

    def method(self) -> Pruner:
        """The pruner."""
        return load_pruner(self.pruner, Budget(self.average, self.ratio), seed=self.seed, **self.options or {})

    def strategy(self, axes: int) -> str:
        """The position strategy; where nothing leaves, every token has its own id."""
        method = self.method()
        return method.position_on(axes, self.position) if method.prunes_vision else "pesp"

    def as_dict(self) -> dict[str, Any]:
        """What is written into a model's config: all that differs from the defaults, and the budget."""
        usual = asdict(Served())
        told = {key: value for key, value in asdict(self).items() if value != usual[key]}
        return told if self.pruner == Served.pruner or self.ratio is not None else {"average": self.average} | told


def places_ids(served: Served, family: Family) -> bool:
    """Whether the ids of a picture's tokens differ from their places in the prompt, so that they travel with them."""
    return served.strategy(family.axes) != "perc" and (family.axes > 1 or served.method().prunes_vision)


def kept_count(pruner: Pruner, grid: Grid, shape: ModelShape) -> int:
    """How many tokens of a picture of ``grid`` tokens enter the LLM.

    Raises:
        nuwa.pruning.budget.BudgetError: the method cannot reach its budget on this picture.
    """
    whole = math.prod(grid)
    schedule, small = schedule_for(pruner, whole, shape)
    if small or not pruner.prunes_vision:
        return whole
    return math.prod(pooled_grid(schedule.vision, grid)) if isinstance(pruner, GridPruner) else schedule.vision


def check_served(served: Served, family: Family) -> None:
    """Refuse what cannot be served, by name.

    Raises:
        ConfigError: a family or an option.
        MisfitError: a method.
        nuwa.pruning.budget.BudgetError: the method cannot reach its budget.
    """
    pruner, name = served.method(), served.pruner
    if family.model_type not in FAMILIES:
        raise ConfigError(f"model.family={family.model_type}: vLLM is told of {', '.join(FAMILIES)} only")
    if served.position not in ("native", *STRATEGIES):
        raise ConfigError(f"position.strategy={served.position}: expected one of native, {', '.join(STRATEGIES)}")
    pruner.check_tower(family.tower)
    pruner.check_llm(family.shape)
    check_position(served.strategy(family.axes), pruner)
    if pruner.counts_by_itself and not isinstance(pruner, GridPruner):  # whose counts are in the shape of the image
        raise MisfitError(
            f"pruner {name} finds the number of tokens by itself, image by image; an engine has to know it before the "
            "image is seen. Serve a method with fixed counts"
        )
    if pruner.info.text_aware and not pruner.prunes_llm:
        raise MisfitError(
            f"pruner {name} reads the question; an engine's caches would answer another question about the same image "
            "with these tokens. Serve a method that looks at the image alone"
        )
    schedule, _ = schedule_for(pruner, family.shape.image_tokens or TRIED, family.shape)
    if schedule.llm:
        layers = ", ".join(str(layer) for layer, _ in schedule.llm)
        alone = "; pruner.stage2_ratio=1 switches it off" if hasattr(pruner, "stage2_ratio") else ""
        raise MisfitError(
            f"pruner {name} has an LLM stage (at layer {layers}); an engine keeps all tokens through all layers{alone}"
        )


def check_calibration_served(kind: str, pruner: Pruner) -> None:
    """Refuse merged tokens that weigh by their size: an engine's attention takes no such mask."""
    if pruner.calibration_of(kind) != "none":
        check_calibration(pruner.calibration_of(kind), pruner)
        raise ConfigError(
            f"calibration.kind={kind}: an engine's attention takes no mask of numbers; use calibration=none"
        )


def overrides(served: Served, family: Family) -> dict[str, Any]:
    """What ``--hf-overrides`` says to vLLM.

    Where ids of one axis are placed, the rotary embedding is told that it has three (M-RoPE), all of whose channels
    turn with the second: vLLM lets nobody place ids of one axis.
    """
    told: dict[str, Any] = {"architectures": [ARCHITECTURE], CONFIG_KEY: served.as_dict()}
    if places_ids(served, family) and family.axes == 1:
        told["text_config"] = {"rope_parameters": {"mrope_section": [0, family.shape.head_dim // 2, 0]}}
    return told


def engine_arguments(served: Served, family: Family, path: str, dtype: str) -> dict[str, Any]:
    """Arguments of ``vllm.LLM``, and of ``vllm serve`` with dashes.

    The rate of video pruning is a switch only: above 0, vLLM asks the model for the ids of what was pruned.
    """
    told = overrides(served, family)
    arguments: dict[str, Any] = {"model": path, "dtype": dtype, "hf_overrides": told}
    arguments["media_io_kwargs"] = dict(READING)
    return arguments | ({"video_pruning_rate": 0.5} if places_ids(served, family) else {})
