"""Position ids of the tokens that stay: PERC, PESP and RPME (Nüwa paper, position study) as pure functions.

Shape letters: C position axes (1, or 3 under M-RoPE), B rows, L tokens of a left-padded row, I images of a row.
"""

from __future__ import annotations

import torch
from torch import Tensor

STRATEGIES = ("perc", "pesp", "rpme")


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
    raise ValueError(f"position.strategy must be one of {', '.join(STRATEGIES)}, not {strategy!r}")


def perc(valid: Tensor, axes: int) -> tuple[Tensor, Tensor]:
    """Renumber: the rank among the row's tokens, from 0, shared by all axes; text after an image moves up too."""
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
        first = kept.masked_fill(~mine, torch.iinfo(kept.dtype).max).amin(-1, keepdim=True)
        last = kept.masked_fill(~mine, torch.iinfo(kept.dtype).min).amax(-1, keepdim=True)
        # Where nothing of this image is left (or only s), the quotient is not used: keep it finite.
        reach = torch.where(mine.any(-1, keepdim=True), last - start, 1).clamp(min=1)
        offset = torch.div((kept - start) * (end - start) + reach - 1, reach, rounding_mode="floor")
        ids = torch.where(mine, torch.where(kept == first, start, start + offset), ids)
    return ids
