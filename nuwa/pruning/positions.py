"""Position ids of the tokens that stay: PERC, PESP and RPME (Nüwa paper, position study) as pure functions.

PERC renumbers, PESP keeps every id, holes included, and RPME stretches the ids of each image's survivors over the
image's full span. Text keeps its ids under PESP and RPME. `median_ids` are PESP's for tokens that stand for several
(RESTORE, ICML 2026; cvlab-yonsei/RESTORE, commit 9b27e68).

Shape letters: C position axes (1, or 3 under M-RoPE), B rows, L tokens of a left-padded row, I images of a row.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def remap(
    strategy: str, kept: Tensor, image: Tensor, valid: Tensor, spans: Tensor, next_id: Tensor
) -> tuple[Tensor, Tensor]:
    """New ids of the tokens that stay, and the id of the first token generated after them.

    Args:
        strategy: one of ``STRATEGIES``.
        kept: (C, B, L) original ids of the tokens that stay, in sequence order; for ``median`` their `median_ids`.
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
    if strategy not in STRATEGIES:
        raise ValueError(f"position.strategy must be one of {', '.join(STRATEGIES)}, not {strategy!r}")
    ids = kept.masked_fill(~valid, 0)
    if strategy in SPREADS:
        for ordinal in range(spans.shape[-1]):
            start, end = spans[..., ordinal, None]
            mine = valid & (image == ordinal)
            ids = torch.where(mine, start + SPREADS[strategy](kept - start, mine, end - start), ids)
    return ids, next_id


def median_ids(original: Tensor, owner: Tensor) -> Tensor:
    """The lower median, per axis, of the ids (C, B, L) of what went into each token: (C, B, L).

    ``owner`` (B, L) is the place of the token that each one went into, -1 where it is gone. A token that nothing went
    into has its own id.

    >>> median_ids(torch.tensor([[[3, 4, 5, 9, 7]]]), torch.tensor([[0, 0, -1, 0, 0]])).tolist()
    [[[4, 4, 5, 9, 7]]]
    """
    owner = owner.expand(original.shape)
    by_id = original.argsort(dim=-1, stable=True)
    places = by_id.gather(-1, owner.gather(-1, by_id).argsort(dim=-1, stable=True))  # owner by owner, ids rising
    counts = torch.zeros_like(original[..., :1]).expand(*original.shape[:-1], original.shape[-1] + 1)
    counts = counts.scatter_add(-1, owner + 1, torch.ones_like(owner))
    middle = counts.cumsum(-1)[..., :-1] + (counts[..., 1:] - 1) // 2
    median = original.gather(-1, places.gather(-1, middle.clamp(min=0, max=original.shape[-1] - 1)))
    return median.where(counts[..., 1:] > 0, original)


def perc(valid: Tensor, axes: int) -> tuple[Tensor, Tensor]:
    """Renumber: the rank among the row's tokens, from 0, shared by all axes; text after an image moves up too.

    >>> perc(torch.tensor([[False, True, True, True]]), axes=1)
    (tensor([[[0, 0, 1, 2]]]), tensor([[3]]))
    """
    rank = valid.long().cumsum(1)
    ids = (rank - 1).masked_fill(~valid, 0)
    return ids.expand(axes, *ids.shape).clone(), rank[:, -1].expand(axes, -1).clone()


def stretch(offset: Tensor, mine: Tensor, reach: Tensor) -> Tensor:
    """RPME: move the ``mine`` of the offsets (..., L) apart, the first to 0 and the last to ``reach`` (..., 1).

    >>> stretch(torch.tensor([1, 4, 6]), torch.ones(3, dtype=torch.bool), torch.tensor([8]))
    tensor([0, 6, 8])

    An offset p goes to ceil(p * reach / p_last), in exact integer arithmetic, the first one to 0. A lone one goes to 0.
    M-RoPE ids are stretched on every axis by itself (height and width independently, first and last being the smallest
    and largest kept id of the axis): the paper defines the one-axis case only. What is not ``mine`` gets any value.
    """
    first = offset.masked_fill(~mine, torch.iinfo(offset.dtype).max).amin(-1, keepdim=True)
    last = offset.masked_fill(~mine, 0).amax(-1, keepdim=True).clamp(min=1)
    spread = torch.div(offset * reach + last - 1, last, rounding_mode="floor")
    return torch.where(offset == first, 0, spread)


def stretch_cells(offset: Tensor, mine: Tensor, reach: Tensor) -> Tensor:
    """`stretch` the raster numbers of the cells at offsets (C, B, L), and return the offsets of the new cells.

    The paper's one-axis formula under M-RoPE: survivors move on along the image's rows, so that rows and columns stay
    those of real cells, but a token may change both. Ids of an image must fill their spans, as those of pictures do;
    the engine refuses videos whose ids skip some.
    """
    sizes = (reach + 1).clamp(min=1)
    steps = sizes.flip(0).cumprod(0).flip(0) // sizes  # how many cells one step along each axis passes
    number = stretch((offset * steps).sum(0), mine, sizes.prod(0) - 1)
    return number // steps % sizes


SPREADS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"rpme": stretch, "rpme_1d": stretch_cells}
"""Strategies that move an image's survivors inside its span, by a function as `stretch`."""
STRATEGIES = ("perc", "pesp", *SPREADS, "median")
