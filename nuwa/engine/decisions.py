"""Checks what a method decides, so that a mistake is named where it would otherwise pass in silence.

Shapes and types are known without reading a tensor. Values are read once per decision, where the engine has to read the
device anyway: to cut the tokens, it must know how many are left.

Shape letters as in `nuwa.pruners.contexts`: B images or prompts, N tokens of a view, K kept tokens, L sequence length,
I images of a prompt.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nuwa.pruners.base import LLMContext, LLMDecision, Pruner, VisionContext, VisionDecision


class DecisionError(ValueError):
    """A method's decision breaks its contract; the message names the method, the stage, the image and the mistake."""


def kept_cells(pruner: Pruner, context: VisionContext, decision: VisionDecision, planned: int) -> list[Tensor]:
    """The cells (K,) that stay of each image, on the CPU, in the order of the decision.

    Raises:
        DecisionError: the shape is wrong, an index is out of range or repeated, or there are not ``planned`` of them
            (which methods with ``counts_by_itself`` may choose).
    """
    keep, stage = decision.keep, f"pruner {pruner.name}, vision stage"
    if keep.dim() != 2 or len(keep) != len(context.ids) or keep.dtype != torch.long:
        expected = f"({len(context.ids)}, {planned}) torch.int64"
        raise DecisionError(f"{stage}: keep is {tuple(keep.shape)} {keep.dtype}, not {expected}")
    for name in ("features", "projected"):
        made = getattr(decision, name)
        if made is not None and made.shape[:2] != keep.shape:
            raise DecisionError(f"{stage}: {name} are {tuple(made.shape)}, but keep is {tuple(keep.shape)}")
    counts = [keep.shape[1]] * len(keep) if decision.counts is None else decision.counts.tolist()
    kept = [row[:count] for row, count in zip(keep.cpu(), counts, strict=True)]
    for name, cells in zip(context.ids, kept, strict=True):
        mistake = _mistake(cells, math.prod(context.grid), None if pruner.counts_by_itself else planned)
        if mistake:
            raise DecisionError(f"{stage}, image {name}: {mistake}")
    return kept


def _mistake(kept: Tensor, whole: int, planned: int | None) -> str | None:
    """What is wrong with kept cells (K,) of ``whole`` cells."""
    outside = kept[(kept < 0) | (kept >= whole)]
    if len(outside):
        return f"index {int(outside[0])} of {whole} visual tokens"
    index, times = kept.unique(return_counts=True)
    if len(index) < len(kept):
        most = int(times.argmax())
        return f"index {int(index[most])} appears {int(times[most])} times"
    if planned is not None and len(kept) != planned:
        return f"kept {len(kept)} of {whole} visual tokens where {planned} were planned"
    return None


def with_text(pruner: Pruner, context: LLMContext, decided: Tensor | LLMDecision) -> LLMDecision:
    """A method's answer in the LLM as a decision that keeps all text and no padding, whatever the method says of them.

    Raises:
        DecisionError: a tensor has the wrong shape, or the mask is none.
    """
    decision = decided if isinstance(decided, LLMDecision) else LLMDecision(decided)
    shape, stage = context.image.shape, f"pruner {pruner.name}, layer {context.layer}"
    if decision.keep.shape != shape or decision.keep.dtype != torch.bool:
        found = f"{tuple(decision.keep.shape)} {decision.keep.dtype}"
        raise DecisionError(f"{stage}: keep is {found}, not {tuple(shape)} torch.bool")
    for name, expected in (("hidden", context.hidden.shape), ("order", shape)):
        value = getattr(decision, name)
        if value is not None and value.shape != expected:
            raise DecisionError(f"{stage}: {name} is {tuple(value.shape)}, not {tuple(expected)}")
    return LLMDecision(decision.keep & (context.image >= 0) | context.text, decision.hidden, decision.order)


def row_lengths(pruner: Pruner, context: LLMContext, keep: Tensor, planned: Tensor) -> list[int]:
    """How many tokens ``keep`` (B, L) leaves of each row, after a check of the visual ones: ``planned`` (B, I) stay.

    Of an image that has fewer left than planned, all stay. Methods with ``counts_by_itself`` may keep any number.

    Raises:
        DecisionError: other numbers of visual tokens stay.
    """
    member = context.image[..., None] == torch.arange(planned.shape[1], device=keep.device)
    counts = torch.cat([keep.sum(1)[:, None], member.sum(1), (member & keep[..., None]).sum(1)], 1).tolist()
    for (_, *both), names, wanted in zip(counts, context.ids, planned.tolist(), strict=True):
        there, kept = both[: len(wanted)], both[len(wanted) :]
        for image, name in enumerate(() if pruner.counts_by_itself else names):
            if kept[image] != min(there[image], wanted[image]):
                raise DecisionError(
                    f"pruner {pruner.name}, layer {context.layer}, image {name}: kept {kept[image]} of {there[image]} "
                    f"visual tokens where {min(there[image], wanted[image])} were planned"
                )
    return [length for length, *_ in counts]
