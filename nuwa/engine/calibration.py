"""Calibration and median ids in the engine: who may use them, and the bias of the keys that a layer's queries see."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from nuwa.pruners.base import MisfitError, Pruner
from nuwa.pruning.calibration import CALIBRATIONS, even_sizes
from nuwa.pruning.prompt import Prompt
from nuwa.pruning.segments import Keys


def check_calibration(kind: str, pruner: Pruner, attention: str | None = None, linear: bool = False) -> None:
    """Refuse a calibration that is unknown, that changes nothing, or whose mask the kernel ``attention`` cannot take.

    ``linear``: some layers of the model have linear attention, which no mask of numbers could change.

    Raises:
        MisfitError: the method merges nothing, or the model's layers have no weights.
        ValueError: the others.
    """
    if kind not in CALIBRATIONS:
        raise ValueError(f"calibration.kind={kind}: expected one of native, {', '.join(CALIBRATIONS)}")
    if kind == "none":
        return
    if not pruner.merges:
        raise MisfitError(
            f"calibration.kind={kind} is for methods that merge tokens, which pruner {pruner.name} does not"
        )
    if linear:
        raise MisfitError(
            f"calibration.kind={kind} (pruner {pruner.name}): layers of this model have linear attention, without "
            "weights; use calibration=none"
        )
    if attention is not None and attention not in ("sdpa", "eager"):
        raise ValueError(
            f"calibration.kind={kind} needs a mask of numbers, which model.attention={attention} does not take; "
            "use sdpa or eager, or calibration=none"
        )


def check_position(strategy: str, pruner: Pruner) -> None:
    """Refuse medians of members where every token stands for itself: the run would be that of its original ids.

    Raises:
        MisfitError: the method merges nothing.
    """
    if strategy == "median" and not pruner.merges:
        raise MisfitError(
            f"position.strategy=median is for methods that merge tokens, which pruner {pruner.name} does not; "
            "use position=pesp, which gives the same ids"
        )


def key_bias(kind: str, prompt: Prompt, keys: Keys, first: bool) -> Tensor:
    """What the sizes of keys add to their logits, in the ``first`` layer or another: (B, 1, K) float32."""
    if kind == "size" or not first:
        return keys.size.log()[:, None]
    patches = pad_sequence([torch.tensor([plan.layout.patches for plan in row]) for row in prompt.rows], True)
    image, table = keys.image, keys.tables[0]
    if table.follower is not None:
        image[:, : table.length].masked_fill_(table.follower, -1)
    return even_sizes(image, patches).log()[:, None]
