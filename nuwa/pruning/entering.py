"""Describes a prompt before any token has left, and what of it enters layer 0. Pure bookkeeping, on the CPU.

Shape letters: B rows (prompts), L tokens, I images of a row, C axes of the position ids (1, or 3 for M-RoPE).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from operator import itemgetter

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from nuwa.pruning.coordinates import add_best, coordinate_scores
from nuwa.pruning.followers import CLOSING, add_followers
from nuwa.pruning.prompt import ImagePlan, Prompt
from nuwa.pruning.segments import Segment


def read_prompt(
    placeholders: Mapping[str, Tensor],
    valid: Tensor,
    ids: Tensor,
    plans: Mapping[str, Sequence[ImagePlan]],
    before: Sequence[Segment] = (),
    numbered: bool = False,
) -> Prompt:
    """Describe an unpruned prompt: ``placeholders`` of each kind and ``valid`` (B, L) bool, ids (C, B, L).

    ``plans`` of a kind are one per image, in prompt order. Rows may be repeated (beams, several samples per prompt):
    copies of a prompt follow each other and share images. ``before``: as in `Prompt`. ``numbered``: the caller counts
    on from the last token's ids, as `generate` does; models that number tokens themselves count on from the largest.

    Raises:
        ValueError: placeholders and images do not match.
    """
    planes, valid, ids = _on_cpu(list(placeholders.values()), valid, ids)
    rows, expanded = _deal_out_kinds(dict(zip(placeholders, planes & valid, strict=True)), plans)
    member = (planes & valid).any(0)
    lengths, index = valid.sum(1).tolist(), torch.arange(valid.shape[1]).expand(valid.shape)
    if numbered:
        last = index.masked_fill(~valid, 0).amax(1, keepdim=True)
        next_id = ids.gather(-1, last.expand(len(ids), -1, 1))[..., 0] + 1
    else:
        next_id = (ids.masked_fill(~valid, -1).amax((0, 2)) + 1).expand(ids.shape[0], -1)
    columns = _image_columns(member, index, rows) | {"index": index, "original": ids, "ids": ids}
    whole = Segment(0, lengths, valid, columns, next_id, _owner(member, columns, rows))
    whole.columns.update(_scores(whole, member, rows))
    mine = whole.image[..., None] == torch.arange(max(map(len, rows)))
    lowest = ids[..., None].masked_fill(~mine, torch.iinfo(ids.dtype).max).amin(2)
    highest = ids[..., None].masked_fill(~mine, -1).amax(2)
    return Prompt(whole, rows, torch.stack([lowest, highest]), expanded, before)


def _on_cpu(placeholders: Sequence[Tensor], valid: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``placeholders`` (K, B, L) and ``valid`` (B, L) bool and ``ids`` (C, B, L) on the CPU: prompts are read there.

    They come together: a device is waited for once.
    """
    kinds = len(placeholders)
    together = torch.cat([*(x[None] for x in (*placeholders, valid)), ids]).cpu()
    return together[:kinds].bool(), together[kinds].bool(), together[kinds + 1 :]


def _image_columns(member: Tensor, index: Tensor, rows: list[list[ImagePlan]]) -> dict[str, Tensor]:
    """What columns say of the tokens of images, which are the ``member`` (B, L) ones in the order of ``rows``."""
    layouts = [(ordinal, plan.layout) for row in rows for ordinal, plan in enumerate(row)]
    image = _spread(member, [torch.full((layout.n_tokens,), ordinal) for ordinal, layout in layouts])
    token = _spread(member, [torch.arange(layout.n_tokens) for _, layout in layouts])
    plans = [plan for row in rows for plan in row]
    sizes = [torch.ones(plan.layout.n_tokens) if plan.sizes is None else plan.sizes for plan in plans]
    columns = {"image": image, "token": token, "size": _spread(member, sizes, 1.0)}
    if any(layout.group is not None for _, layout in layouts):
        alone = [torch.full((layout.n_tokens,), -1) if layout.group is None else layout.group for _, layout in layouts]
        group, source = _spread(member, alone), _spread(member, [layout.source for _, layout in layouts])
        # numbered from where the image begins, so that no two images of a row have one of the same number
        columns |= {"group": group.where(group < 0, index - token + group), "follower": member & (source < 0)}
    return columns


def _scores(whole: Segment, member: Tensor, rows: list[list[ImagePlan]]) -> dict[str, Tensor]:
    """The column ``score`` (B, L) by which tokens stay in any case, if any do."""
    plans = [plan for row in rows for plan in row]
    coordinates = next((plan.coordinates for plan in plans if plan.coordinates is not None), None)
    if coordinates is None:
        return {}
    if coordinates.frequencies is None:
        scores = [torch.zeros(plan.layout.n_tokens) if plan.scores is None else plan.scores.cpu() for plan in plans]
        return {"score": _spread(member, scores, -torch.inf)}
    image = whole.image if whole.follower is None else whole.image.masked_fill(whole.follower, -1)
    return {"score": coordinate_scores(whole.original, image, max(map(len, rows)), coordinates.frequencies.cpu())}


def _owner(member: Tensor, columns: dict[str, Tensor], rows: list[list[ImagePlan]]) -> Tensor:
    """`Segment.owner` of an unpruned prompt, from the plans of its images: (B, L)."""
    plans, index = [plan for row in rows for plan in row], columns["index"]
    own = [torch.arange(plan.layout.n_tokens) if plan.members is None else plan.members for plan in plans]
    token = _spread(member, own)
    return torch.where(member, torch.where(token < 0, -1, index - columns["token"] + token), index)


def _spread(member: Tensor, values: Sequence[Tensor], fill: float = -1) -> Tensor:
    """``values`` of all images, one after the other, at the ``member`` (B, L) places, ``fill`` elsewhere."""
    empty = torch.full(member.shape, fill)
    return empty.masked_scatter(member, torch.cat(list(values))) if values else empty


def _deal_out_kinds(
    member: Mapping[str, Tensor], plans: Mapping[str, Sequence[ImagePlan]]
) -> tuple[list[list[ImagePlan]], int]:
    """The plans of every row in prompt order, and how many copies of a prompt there are.

    ``member`` (B, L) are the placeholders of each kind.
    """
    dealt = {kind: _deal_out(mine.sum(1).tolist(), plans.get(kind, ()), kind) for kind, mine in member.items()}
    found = [(member[kind], rows) for kind, (rows, _) in dealt.items() if any(rows)]
    expanded = max(copies for _, copies in dealt.values())
    if len(found) == 1:
        return found[0][1], expanded
    merged: list[list[tuple[int, ImagePlan]]] = [[] for _ in next(iter(member.values()))]
    for mine, rows in found:
        for row, (row_plans, here) in enumerate(zip(rows, mine, strict=True)):
            ends = accumulate(plan.layout.n_tokens for plan in row_plans)
            places = here.nonzero()[:, 0].tolist()
            merged[row] += [(places[end - 1], plan) for end, plan in zip(ends, row_plans, strict=True)]
    return [[plan for _, plan in sorted(row, key=itemgetter(0))] for row in merged], expanded


def _deal_out(counts: Sequence[int], plans: Sequence[ImagePlan], kind: str) -> tuple[list[list[ImagePlan]], int]:
    """The plans of every row, which has one of ``counts`` placeholders, and how many copies of a prompt there are."""
    total = sum(plan.layout.n_tokens for plan in plans)
    expanded = sum(counts) // max(total, 1) or 1
    if expanded * total != sum(counts) or len(counts) % expanded:
        raise ValueError(f"{sum(counts)} {kind} placeholders in the prompts do not match {total} {kind} tokens")
    rows: list[list[ImagePlan]] = []
    queue = list(plans)
    for first in range(0, len(counts), expanded):
        mine: list[ImagePlan] = []
        while sum(plan.layout.n_tokens for plan in mine) < counts[first] and queue:
            mine.append(queue.pop(0))
        tokens = sum(plan.layout.n_tokens for plan in mine)
        if any(count != tokens for count in counts[first : first + expanded]):
            raise ValueError(
                f"prompt {first // expanded}: {counts[first]} {kind} placeholders do not fit whole {kind}s"
            )
        rows += [mine] * expanded
    return rows, expanded


def first_segment(prompt: Prompt, strategy: str, device: torch.device | None = None) -> Segment:
    """What enters layer 0, for a ``device``: text in its place, each image's kept tokens in the order its plan says.

    The first of them stands where the first that stays in the prompt would stand, and so on: text may stand between.
    """
    whole = prompt.whole
    keep, order, lengths = whole.valid, whole.index, list(whole.lengths)
    if any(plan.keep is not None for row in prompt.rows for plan in row):
        slots = []
        for row, plans in enumerate(prompt.rows):
            first = 0
            for plan in plans:
                kept = torch.arange(plan.layout.n_tokens) if plan.keep is None else plan.keep
                slot = torch.full((plan.layout.n_tokens,), -1)
                slots.append(slot.index_copy(0, kept, first + kept.sort().values))
                first += plan.layout.n_tokens
                lengths[row] -= plan.layout.n_tokens - len(kept)
        visual = whole.image >= 0
        slot = _spread(visual, slots)
        keep = whole.valid & ~(visual & (slot < 0))
        order = torch.where(visual, _visual_places(visual).gather(1, slot.clamp(min=0)), whole.index)
    if any(plan.added for row in prompt.rows for plan in row):
        whole, keep, order = _with_coordinates(prompt, keep, order)
        lengths = keep.sum(1).tolist()
    return prompt.narrow(whole, keep, lengths, 0, strategy, order)[0].to(device)


def _visual_places(visual: Tensor) -> Tensor:
    """Where the first, second, ... of a row's ``visual`` (B, L) tokens stands: (B, L), the places of others behind."""
    return visual.logical_not().long().argsort(dim=1, stable=True)


def _with_coordinates(prompt: Prompt, keep: Tensor, order: Tensor) -> tuple[Segment, Tensor, Tensor]:
    """What enters layer 0 with the tokens that the plans add to it, each its own owner, and what follows these.

    In an image whose tokens enter in raster order they take their places, else they come behind the others.
    """
    whole, plans = prompt.whole, [plan for row in prompt.rows for plan in row]
    sizes, visual, follower = [plan.layout.n_tokens for plan in plans], whole.image >= 0, whole.follower
    rising = [plan.keep is None or not bool((plan.keep.diff() <= 0).any()) for plan in plans]
    followed = [plan.keep is None or bool((plan.layout.source[plan.keep] < 0).any()) for plan in plans]
    ends = [end - 1 for row in prompt.rows for end in accumulate(plan.layout.n_tokens for plan in row)]
    last, raster, closes = (
        _spread(visual, [torch.full((size,), int(value)) for size, value in zip(sizes, values, strict=True)])
        for values in (ends, rising, followed)
    )
    counts = pad_sequence([torch.tensor([plan.added for plan in row]) for row in prompt.rows], batch_first=True)
    chosen = whole.image if follower is None else whole.image.masked_fill(follower, -1)
    kept = add_best(keep, whole.columns["score"], chosen, counts.to(keep.device))
    behind = torch.where(kept & ~keep, 2 * _visual_places(visual).gather(1, last.clamp(min=0)) + 1, 2 * order)
    order = torch.where(visual, torch.where(raster == 1, 2 * whole.index, behind), 2 * order)
    owner = torch.where(kept & ~keep, whole.index, whole.owner)
    if follower is not None:
        group = whole.columns["group"]
        group = group.masked_fill((closes != 1) & (group != CLOSING), -1)
        kept, order = add_followers(kept, order, follower, group, whole.image, whole.index, whole.length)
    return replace(whole, owner=owner), kept, order
