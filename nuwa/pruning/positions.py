"""Position ids of the tokens that stay: PERC, PESP and RPME (Nüwa paper, position study) as pure functions.

Shape letters: C position axes (1, or 3 under M-RoPE), B rows, L tokens of a left-padded row, I images of a row.
"""

from __future__ import annotations

import torch
from torch import Tensor

STRATEGIES = ("perc", "pesp", "rpme", "rpme_1d")


def remap(
    strategy: str, kept: Tensor, image: Tensor, valid: Tensor, spans: Tensor, next_id: Tensor
) -> tuple[Tensor, Tensor]:
    """New ids of the tokens that stay, and the id of the first token generated after them.

    Args:
        strategy: one of ``STRATEGIES``.
        kept: (C, B, L) original ids of the tokens that stay, in sequence order.
        image: (B, L) ordinal of the row's image a token belongs to, -1 for text and padding.
        valid: (B, L) False on padding.
        spans: (2, C, B, I) smallest and largest original id of each image before any pruning, per axis.
        next_id: (C, B) id that the first generated token would have without pruning.

    Returns:
        ids (C, B, L), 0 on padding, and next ids (C, B).

    Raises:
        ValueError: the strategy is unknown.
    """
    if strategy == "perc":
        return perc(valid, len(kept))
    if strategy == "pesp":
        return pesp(kept, valid), next_id
    if strategy == "rpme":
        return rpme(kept, image, valid, spans), next_id
    if strategy == "rpme_1d":
        return rpme_1d(kept, image, valid, spans), next_id
    raise ValueError(f"position.strategy must be one of {', '.join(STRATEGIES)}, not {strategy!r}")


def perc(valid: Tensor, axes: int) -> tuple[Tensor, Tensor]:
    """Renumber: the rank among the row's tokens, from 0, shared by all axes; text after an image moves up too.

    >>> perc(torch.tensor([[False, True, True, True]]), axes=1)
    (tensor([[[0, 0, 1, 2]]]), tensor([[3]]))
    """
    rank = valid.long().cumsum(1)
    ids = (rank - 1).masked_fill(~valid, 0)
    return ids.expand(axes, *ids.shape).clone(), rank[:, -1].expand(axes, -1).clone()


def pesp(kept: Tensor, valid: Tensor) -> Tensor:
    """Keep every token's original id, holes included."""
    return kept.masked_fill(~valid, 0)


def rpme(kept: Tensor, image: Tensor, valid: Tensor, spans: Tensor) -> Tensor:
    """Stretch the ids of each image's survivors over the image's full span; text keeps its ids.

    With s and e the ends of the span, the first survivor goes to s and any other id p to
    ceil((p - s) * (e - s) / (p_last - s)) + s, in exact integer arithmetic, so that the last survivor lands on e.
    A lone survivor goes to s. M-RoPE ids are stretched on every axis by itself (height and width independently,
    first and last being the smallest and largest kept id of the axis): the paper defines the one-axis case only.
    """
    ids = pesp(kept, valid)
    for ordinal in range(spans.shape[-1]):
        mine = (valid & (image == ordinal)).expand_as(kept)
        start, end = (side[..., ordinal, None] for side in spans)
        ids = torch.where(mine, start + stretch(kept - start, mine, end - start), ids)
    return ids


def rpme_1d(kept: Tensor, image: Tensor, valid: Tensor, spans: Tensor) -> Tensor:
    """Stretch the raster numbers of each image's survivors over all its cells; each takes the ids of its new cell.

    The paper's one-axis formula under M-RoPE: survivors move on along the image's rows, so that rows and columns stay
    those of real cells, but a token may change both. The same as `rpme` where ids have one axis. Ids of an image must
    fill their spans, which they do for pictures.
    """
    ids = pesp(kept, valid)
    for ordinal in range(spans.shape[-1]):
        mine = valid & (image == ordinal)
        start, end = (side[..., ordinal, None] for side in spans)
        sizes = (end - start + 1).clamp(min=1)
        number = torch.zeros_like(kept[0])
        for axis, size in zip(kept - start, sizes, strict=True):
            number = number * size + axis
        number = stretch(number, mine, sizes.prod(0) - 1)
        for axis in reversed(range(len(kept))):
            ids[axis] = torch.where(mine, start[axis] + number % sizes[axis], ids[axis])
            number = number // sizes[axis]
    return ids


def stretch(offset: Tensor, mine: Tensor, reach: Tensor) -> Tensor:
    """Move the ``mine`` (..., L) of the offsets (..., L) apart, the first to 0 and the last to ``reach`` (..., 1).

    >>> stretch(torch.tensor([1, 4, 6]), torch.ones(3, dtype=torch.bool), torch.tensor([8]))
    tensor([0, 6, 8])

    Rounded up, in exact integer arithmetic; what is not ``mine`` gets any value.
    """
    first = offset.masked_fill(~mine, torch.iinfo(offset.dtype).max).amin(-1, keepdim=True)
    last = offset.masked_fill(~mine, 0).amax(-1, keepdim=True).clamp(min=1)
    spread = torch.div(offset * reach + last - 1, last, rounding_mode="floor")
    return torch.where(offset == first, 0, spread)
