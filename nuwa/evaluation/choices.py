"""The choices a run was made with, as a reader tells runs apart."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from nuwa.config import UNSCIENTIFIC
from nuwa.models import axes_of
from nuwa.pruners.base import Pruner
from nuwa.pruners.catalogue import find_method


@dataclass(frozen=True)
class Choices:
    """What a run was asked to do.

    ``options`` are the method's; ``position`` is ``native`` where ``strategy``, the one in use, is that of the method's
    authors; the budget is an ``average`` in tokens or a ``ratio`` of the image's; ``blocking`` is whose attention to
    the image was cut and in which layers, ``calibration`` how merged tokens weighed in it, ``coordinates`` which tokens
    stayed in any case, and their share. ``rest`` is, as JSON, what else changes a result, except the seed: options of
    data set and model, decoding, the limit and the protocol.
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
    calibration: str = "none"
    coordinates: tuple[str, float] | None = None
    strategy: str = ""
    rest: str = ""

    @classmethod
    def of(cls, config: Mapping[str, Any], method: str, position: str, protocol: int) -> Choices:
        """The choices in a recorded config; ``position`` is the strategy that was used, if that is known."""
        groups = ("pruner", "dataset", "model", "budget", "blocking", "position", "calibration", "coordinates")
        pruner, dataset, model, budget, blocking, ids, weighing, always = (config.get(group) or {} for group in groups)
        position = position or ids.get("strategy", "native")
        known = known_method(method)  # a run may name the strategy that its method's authors use
        usual = "native" if known is None else known[0].position_on(axes_of(model.get("family")))
        # where this machine keeps its copy of the hub's
        local = ("path", "videos_folder", "streaming") if dataset.get("hub") else ()
        samples = {key: value for key, value in dataset.items() if key not in local}
        # A model's path counts: two folders may hold two checkpoints.
        answering = {key: value for key, value in model.items() if key not in UNSCIENTIFIC["model"]}
        rest = [samples, answering, protocol, config.get("generation"), config.get("limit")]
        return cls(
            method=method,
            options={key: _whole(value) for key, value in pruner.items() if key != "_target_"},
            average=budget.get("average"),
            ratio=budget.get("ratio"),
            position="native" if position == usual else position,
            model=model.get("name", ""),
            dataset=dataset.get("name", ""),
            split=dataset.get("split"),
            limited=config.get("limit") is not None,
            blocking=(blocking["source"], str(blocking["layers"])) if blocking.get("source") else None,
            calibration=_calibration(weighing.get("kind", "native"), known),
            coordinates=(always["kind"], always["share"]) if always.get("kind", "none") != "none" else None,
            strategy=usual if position == "native" else position,
            rest=json.dumps(rest, sort_keys=True, default=str),
        )

    @property
    def budget(self) -> str:
        """The budget in words: ``64 tokens``, ``50%`` or ``all tokens``."""
        if self.average is not None:
            return f"{self.average:g} tokens"
        return "all tokens" if self.ratio is None else f"{self.ratio:.0%}"

    @property
    def title(self) -> str:
        """A name for people: ``nuwa 64 pesp d_thresh=412 scenes``."""
        options = [f"{name}={value}" for name, value in self.changed.items()]
        words = [self.method, self.budget.removesuffix(" tokens"), self.strategy, *self.extras, *options]
        return " ".join([*words, self.dataset])

    @property
    def flat(self) -> dict[str, str]:
        """The words by which runs are grouped."""
        return {
            "method": self.method,
            "budget": self.budget,
            "position": self.strategy,
            "dataset": self.dataset,
            "model": self.model,
        }

    @property
    def extras(self) -> list[str]:
        """How merged tokens weighed and which tokens stayed in any case, where any did."""
        weighing = [] if self.calibration == "none" else [self.calibration]
        return weighing + [f"{kind} {share:.0%}" for kind, share in filter(None, [self.coordinates])]

    @property
    def changed(self) -> dict[str, Any]:
        """Options of the method that differ from its config file."""
        known = known_method(self.method)
        usual = {} if known is None else known[1]
        return {key: value for key, value in self.options.items() if str(value) != str(_whole(usual.get(key, "")))}

    def has_options(self, wanted: Mapping[str, Any]) -> bool:
        """Whether the method ran with the ``wanted`` options and otherwise as its config file says."""
        known = known_method(self.method)
        if known is None:
            return False
        asked = {**known[1], **wanted}
        return all(str(self.options.get(key, asked[key])) == str(_whole(asked[key])) for key in asked)


@lru_cache
def known_method(name: str) -> tuple[type[Pruner], dict[str, Any]] | None:
    """Class and options of a method; None if there is no such method."""
    try:
        return find_method(name)
    except ValueError:
        return None


def _calibration(kind: str, known: tuple[type[Pruner], dict[str, Any]] | None) -> str:
    """What ``native`` stands for, of a method that is known or not."""
    if kind != "native":
        return kind
    return "none" if known is None else known[0].native_calibration


def _whole(value: Any) -> Any:
    """Whole numbers without a fraction: 280.0 and 280 are one choice."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
