"""What a result says about the choices its run was made with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from hydra.utils import get_object

from nuwa.config import UNSCIENTIFIC
from nuwa.models import axes_of
from nuwa.pruners.base import Pruner
from nuwa.pruners.catalogue import find_method

Result = dict[str, Any]
GROUPS = ("pruner", "dataset", "model", "budget", "blocking")
REST = ("generation", "limit")


def method_of(result: Result) -> str:
    """The name of a run's method, as conf/pruner has it; ``?`` where the run has left no config."""
    if "method" in result:
        return result["method"]
    target = result.get("config", {}).get("pruner", {}).get("_target_", "")
    if not target:
        return "?"
    try:
        return get_object(target).name
    except Exception:  # a run that failed because its method does not exist
        return target


def protocol_of(result: Result) -> int:
    """By which rules a run was scored and counted (`nuwa.config.PROTOCOL`); the first results do not say."""
    return result.get("protocol", 1)


def probe_of(result: Result) -> dict[str, Any]:
    """What the speed probe measured at batch size 1; empty where it did not."""
    return next((entry for entry in result.get("speed", ()) if entry["batch"] == 1), {})


def measured(result: Result) -> dict[str, float]:
    """Medians of a run's own times, ms: of the pruned model, or of the unpruned one in its own run."""
    variants = probe_of(result).get("variants", {})
    return {name: spent["median"] for name, spent in variants.get("pruned", variants.get("vanilla", {})).items()}


@dataclass(frozen=True)
class Choices:
    """What a run was asked to do, as far as a printed table tells runs apart.

    ``rest`` is what else does, but for the seed: the options of data set and model, decoding, the limit, and the
    protocol.
    """

    method: str
    options: dict[str, Any]
    average: float | None
    ratio: float | None
    position: str
    model: str
    dataset: str
    split: str | None
    limited: bool
    blocking: tuple[str, str] | None = None
    rest: str = ""

    @property
    def budget(self) -> str:
        """The budget as a reader names it."""
        if self.average is not None:
            return f"{self.average:g} tokens"
        return "all tokens" if self.ratio is None else f"{self.ratio:.0%}"

    @property
    def changed(self) -> dict[str, Any]:
        """Options of the method that are not as its config file says."""
        known = _known_method(self.method)
        usual = {} if known is None else known[1]
        return {key: value for key, value in self.options.items() if str(value) != str(_plain(usual.get(key, "")))}

    def has_options(self, wanted: dict[str, Any]) -> bool:
        """Whether the method runs with the ``wanted`` options and otherwise as its config file says."""
        known = _known_method(self.method)
        if known is None:
            return False
        asked = {**known[1], **wanted}
        return all(str(self.options.get(key, asked[key])) == str(_plain(asked[key])) for key in asked)


def choices_of(result: Result) -> Choices:
    """The choices in a run's recorded config."""
    config = result.get("config", {})
    pruner, dataset, model, budget, blocking = (config.get(group) or {} for group in GROUPS)
    rest = [_samples(dataset), _answering(model), protocol_of(result), *map(config.get, REST)]
    return Choices(
        method=method_of(result),
        options={key: _plain(value) for key, value in pruner.items() if key != "_target_"},
        average=budget.get("average"),
        ratio=budget.get("ratio"),
        position=_position(result),
        model=model.get("name", ""),
        dataset=dataset.get("name", ""),
        split=dataset.get("split"),
        limited=config.get("limit") is not None,
        blocking=(blocking["source"], str(blocking["layers"])) if blocking.get("source") else None,
        rest=json.dumps(rest, sort_keys=True, default=str),
    )


def _samples(dataset: dict[str, Any]) -> dict[str, Any]:
    """A data set's options but for where a copy of what the hub has lies on this machine."""
    return {key: value for key, value in dataset.items() if not dataset.get("hub") or key not in ("path", "streaming")}


def _answering(model: dict[str, Any]) -> dict[str, Any]:
    """A model's options but those that change no answer.

    ``path`` stays: two folders may hold two checkpoints, so that copies of one are told apart too.
    """
    return {key: value for key, value in model.items() if key not in UNSCIENTIFIC["model"]}


def _position(result: Result) -> str:
    """``native`` also where a run names the strategy that its method's authors use."""
    config = result.get("config", {})
    asked = result.get("position") or config.get("position", {}).get("strategy", "native")
    known, axes = _known_method(method_of(result)), axes_of((config.get("model") or {}).get("family"))
    return "native" if known is not None and asked == known[0].position_on(axes) else asked


@lru_cache
def _known_method(name: str) -> tuple[type[Pruner], dict[str, Any]] | None:
    """Class and options of a method, None if there is no such method."""
    try:
        return find_method(name)
    except ValueError:
        return None


def _plain(value: Any) -> Any:
    """Whole numbers without a fraction: 280.0 and 280 are one choice."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
