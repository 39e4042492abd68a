"""Checks what a method decides, so that a mistake is named where it would otherwise pass in silence.

Shapes and types are known without reading a tensor. Values are read once per decision, where the engine has to read the
device anyway: to cut the tokens, it must know how many are left.

Shape letters as in `nuwa.pruners.contexts`: B images or prompts, N tokens of a view, K kept tokens, L sequence length,
I images of a prompt.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from nuwa.pruners.base import LLMContext, LLMDecision, Pruner, VisionContext, VisionDecision
from nuwa.pruning.merging import member_counts

_BROKEN = torch.iinfo(torch.long).min
"""Stands for a cell whose new features are no numbers."""


class DecisionError(ValueError):
    """A method's decision breaks its contract; the message names the method, the stage, the image and the mistake."""


def kept_cells(pruner: Pruner, context: VisionContext, decision: VisionDecision, planned: int) -> list[Tensor]:
    """The cells (K,) that stay of each image, on the CPU, in the order of the decision.

    Raises:
        DecisionError: it is no decision, its shape is wrong, new features are not finite, an index is out of range or
            repeated, or there are not ``planned`` of them (which methods with ``counts_by_itself`` may choose).
    """
    stage = f"pruner {pruner.name}, vision stage"
    if not isinstance(decision, VisionDecision) or not torch.is_tensor(decision.keep):
        found = getattr(decision, "keep", decision)
        raise DecisionError(f"{stage}: answered {type(found).__name__}, not VisionDecision(keep=<tensor>)")
    keep = decision.keep
    if keep.dim() != 2 or len(keep) != len(context.ids) or keep.dtype != torch.long:
        expected = f"({len(context.ids)}, {planned}) torch.int64"
        raise DecisionError(f"{stage}: keep is {tuple(keep.shape)} {keep.dtype}, not {expected}")
    for name in ("features", "projected"):
        made = getattr(decision, name)
        if made is not None and made.shape[:2] != keep.shape:
            raise DecisionError(f"{stage}: {name} are {tuple(made.shape)}, but keep is {tuple(keep.shape)}")
    if decision.counts is not None and decision.counts.shape != keep.shape[:1]:
        raise DecisionError(f"{stage}: counts are {tuple(decision.counts.shape)}, not ({len(keep)},)")
    counts = [keep.shape[1]] * len(keep) if decision.counts is None else decision.counts.tolist()
    new = decision.features if decision.projected is None else decision.projected
    table = keep if new is None else keep.where((new * 0).sum(-1) == 0, _BROKEN)  # so that the device is read once
    kept = [row[: max(count, 0)] for row, count in zip(table.cpu(), counts, strict=True)]
    for name, cells, count in zip(context.ids, kept, counts, strict=True):
        mistake = _mistake(cells, math.prod(context.grid), None if pruner.counts_by_itself else planned)
        if count != len(cells):
            mistake = f"counts {count} of the {keep.shape[1]} tokens that it names"
        broken = int((cells == _BROKEN).sum())
        if broken:
            mistake = f"made features of which {broken} are NaN or infinite"
        if mistake:
            raise DecisionError(f"{stage}, image {name}: {mistake}")
    return kept


def merged_cells(
    pruner: Pruner, context: VisionContext, decision: VisionDecision, kept: list[Tensor]
) -> list[tuple[Tensor, Tensor]]:
    """Of each image, the place in ``kept`` that its cells (N,) went into, and the sizes (K,) of these, on the CPU.

    Without ``members`` each kept cell is its own.

    Raises:
        DecisionError: a shape is wrong, a member is no place, or a size not a positive number.
    """
    keep, cells, stage = decision.keep, math.prod(context.grid), f"pruner {pruner.name}, vision stage"
    shapes = {"members": (len(keep), cells), "sizes": tuple(keep.shape), "weights": (*keep.shape, cells)}
    shapes["shares"] = shapes["members"]
    for name, shape in shapes.items():
        value = getattr(decision, name)
        if value is not None and tuple(value.shape) != shape:
            raise DecisionError(f"{stage}: {name} are {tuple(value.shape)}, not {shape}")
    if decision.members is None:
        whole = torch.full((cells,), -1)
        return [(whole.scatter(0, row, torch.arange(len(row))), torch.ones(len(row))) for row in kept]
    members = decision.members.cpu()
    sizes = [None] * len(kept) if decision.sizes is None else decision.sizes.float().cpu()
    merged = []
    for name, mine, size, row in zip(context.ids, members, sizes, kept, strict=True):
        wrong = mine[(mine < -1) | (mine >= len(row))]
        if mine.dtype != torch.long or len(wrong):
            found = int(wrong[0]) if len(wrong) else mine.dtype
            raise DecisionError(f"{stage}, image {name}: member of {found}, which is no place among {len(row)} kept")
        size = member_counts(mine, len(row)).float() if size is None else size[: len(row)]
        if not bool((size.isfinite() & (size > 0)).all()):
            raise DecisionError(f"{stage}, image {name}: sizes must be positive numbers, not {size.min():g}")
        merged.append((mine, size))
    return merged


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


@contextmanager
def unchanged(pruner: Pruner, context: LLMContext) -> Iterator[None]:
    """Refuse a method that writes into what it is shown: the layer's own input, and the tables of its tokens.

    Raises:
        DecisionError: it does.
    """
    shown = context.hidden, context.image, context.token, context.valid, context.position_ids
    followed = [x for x in shown if not x.is_inference()]  # of the others torch counts no versions
    before = [x._version for x in followed]
    yield
    if [x._version for x in followed] != before:
        stage = f"pruner {pruner.name}, layer {context.layer}"
        raise DecisionError(f"{stage}: it changed its context in place; new states go into LLMDecision(hidden=...)")


def with_text(pruner: Pruner, context: LLMContext, decided: Tensor | LLMDecision) -> LLMDecision:
    """A method's answer in the LLM as a decision that keeps all text and no padding, whatever the method says of them.

    Raises:
        DecisionError: it is no decision, or a tensor has the wrong shape or type.
    """
    decision = decided if isinstance(decided, LLMDecision) else LLMDecision(decided)
    shape, stage = context.image.shape, f"pruner {pruner.name}, layer {context.layer}"
    if not torch.is_tensor(decision.keep):
        raise DecisionError(f"{stage}: answered {type(decision.keep).__name__}, not a tensor or an LLMDecision")
    if decision.keep.shape != shape or decision.keep.dtype != torch.bool:
        found = f"{tuple(decision.keep.shape)} {decision.keep.dtype}"
        raise DecisionError(f"{stage}: keep is {found}, not {tuple(shape)} torch.bool")
    states, places = (context.hidden.shape, context.hidden.dtype), (shape, torch.long)
    for name, expected in (("hidden", states), ("order", places), ("members", places)):
        value = getattr(decision, name)
        if value is not None and (value.shape, value.dtype) != expected:
            wanted = f"{tuple(expected[0])} {expected[1]}"
            raise DecisionError(f"{stage}: {name} is {tuple(value.shape)} {value.dtype}, not {wanted}")
    return replace(decision, keep=decision.keep.where(context.image >= 0, context.text))


def row_lengths(pruner: Pruner, context: LLMContext, decision: LLMDecision, planned: Tensor) -> list[int]:
    """How many tokens a decision leaves of each row, after a check of the visual ones: ``planned`` (B, I) stay.

    Of an image that has fewer left than planned, all stay. Methods with ``counts_by_itself`` may keep any number.

    Raises:
        DecisionError: other numbers of visual tokens stay, one went into a token that does not, or values are
            impossible.
    """
    keep, groups = decision.keep[..., None], planned.shape[1] + 1  # what is of no image, then the images
    member = context.image[..., None] == torch.arange(-1, planned.shape[1], device=keep.device)
    mistakes = _mistakes_in_llm(context, decision)
    counts = torch.cat([member, member & keep, *(x[..., None] for x in mistakes.values())], 2).sum(1).tolist()
    for row, names, wanted in zip(counts, context.ids, planned.tolist(), strict=True):
        there, kept = row[1:groups], row[groups + 1 : 2 * groups]
        for mistake, tokens in zip(mistakes, row[2 * groups :], strict=True):
            if tokens:
                stage = f"pruner {pruner.name}, layer {context.layer}, images {', '.join(names)}"
                raise DecisionError(f"{stage}: {tokens} tokens {mistake}")
        for image, name in enumerate(() if pruner.counts_by_itself else names):
            if kept[image] != min(there[image], wanted[image]):
                raise DecisionError(
                    f"pruner {pruner.name}, layer {context.layer}, image {name}: kept {kept[image]} of {there[image]} "
                    f"visual tokens where {min(there[image], wanted[image])} were planned"
                )
    return [sum(row[groups : 2 * groups]) for row in counts]


def _mistakes_in_llm(context: LLMContext, decision: LLMDecision) -> dict[str, Tensor]:
    """Tokens (B, L) of a decision with which something is wrong, by what it is."""
    found = {}
    if decision.members is not None:
        found["went into tokens that do not stay"] = _lost_members(context, decision.members, decision.keep)
    if decision.order is not None:
        found["have a negative order"] = decision.keep & (decision.order < 0)
    if decision.hidden is not None:
        broken, given = (~x.isfinite().all(-1) for x in (decision.hidden, context.hidden))
        found["have new states that are NaN or infinite"] = decision.keep & broken & ~given
    return found


def _lost_members(context: LLMContext, members: Tensor, keep: Tensor) -> Tensor:
    """Visual tokens (B, L) that went neither into a visual token that stays, of the same image, nor away (-1)."""
    image = context.image
    inside = (members >= 0) & (members < members.shape[1])
    place = members.where(inside, 0)
    stays = inside & keep.gather(1, place) & (image.gather(1, place) == image)
    return (image >= 0) & (members != -1) & ~stays
