"""Decisions of the vision stage in a cache, for jobs of a sweep that differ in stage 2 or in positions only."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from torch import Tensor

from nuwa.engine.feature_cache import FeatureCache, tensor_digest
from nuwa.pruners.base import Pruner, VisionContext, VisionDecision

_EXTRAS = "extras "


@dataclass(frozen=True)
class DecisionCache:
    """What methods decided about the images of one call, beside their features in a `FeatureCache`.

    ``call`` names the images as the vision tower saw them (`Encoded.key`), and is empty where there is no cache.
    """

    cache: FeatureCache | None
    call: str

    def decide(
        self, pruner: Pruner, context: VisionContext, keep: int, views: Sequence[tuple[int, Tensor]]
    ) -> VisionDecision:
        """`Pruner.prune_vision`, or what it gave for the same views before.

        ``views``: the number of each view's image in the call, and which of the image's tokens (N,) it shows. A method
        without a `Pruner.vision_key` is asked every time, and so is one whose ``prune_vision`` is watched (traces).
        """
        if self.cache is None or not pruner.vision_key or "prune_vision" in vars(pruner):
            return pruner.prune_vision(context, keep)
        shown = [(image, tensor_digest(tokens, context.grid)) for image, tokens in views]
        told = context.frames, context.views, context.ids, context.questions
        key = self.call + json.dumps([pruner.vision_key, keep, shown, told])
        tensors = self.cache.load(key, context.features.device)
        if tensors is not None:
            return _decision(tensors)
        decision = pruner.prune_vision(context, keep)
        self.cache.store(key, _tensors(decision))
        return decision


def _tensors(decision: VisionDecision) -> dict[str, Tensor]:
    extras = {_EXTRAS + name: values for name, values in decision.extras.items()}
    own = {field.name: getattr(decision, field.name) for field in fields(decision) if field.name != "extras"}
    return extras | {name: values for name, values in own.items() if values is not None}


def _decision(tensors: Mapping[str, Tensor]) -> VisionDecision:
    extras = {name.removeprefix(_EXTRAS): values for name, values in tensors.items() if name.startswith(_EXTRAS)}
    own = {name: values for name, values in tensors.items() if not name.startswith(_EXTRAS)}
    return VisionDecision(**own, extras=extras)
