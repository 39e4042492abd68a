"""Merging: who went into whom, and Nüwa's aggregation: kept tokens collect their like from nearby. Pure functions.

Shape letters: B images, N tokens of a view, K kept tokens, D feature width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from nuwa.pruning.layout import Grid, coordinates
from nuwa.pruning.masks import gather_tokens


def join(keep: Tensor, n_tokens: int, joined: Tensor, slots: Tensor) -> Tensor:
    """The place among the kept tokens (B, K) that each of ``n_tokens`` went into, -1 where it is gone: (B, N).

    Kept tokens are their own; the tokens ``joined`` (B, M) went into those at the places ``slots`` (B, M).

    >>> join(torch.tensor([[4, 0]]), 5, joined=torch.tensor([[1, 3]]), slots=torch.tensor([[0, 0]])).tolist()
    [[1, 0, -1, 0, 0]]
    """
    own = torch.arange(keep.shape[1], device=keep.device).expand_as(keep)
    gone = torch.full((len(keep), n_tokens), -1, device=keep.device)
    return gone.scatter(1, keep, own).scatter(1, joined, slots)


def member_counts(members: Tensor, kept: int) -> Tensor:
    """How many of the members (N,) each of ``kept`` tokens has; one without any stands for itself: (K,).

    >>> member_counts(torch.tensor([1, 0, -1, 0, 0]), 3).tolist()
    [3, 1, 1]
    """
    counts = torch.zeros(kept + 1, dtype=torch.long, device=members.device)  # the last one, of those that are gone
    return counts.scatter_add(0, members.masked_fill(members < 0, kept), torch.ones_like(members))[:kept].clamp(min=1)


def soft_members(weights: Tensor, keep: Tensor) -> dict[str, Tensor]:
    """What a decision says of tokens (B, K) that gathered all N with ``weights`` (B, K, N): members, sizes, weights.

    A token belongs where its weight is largest. A kept one stands for as many tokens as the weights sum to, its own
    being one, and for itself alone where that is nothing.

    >>> soft_members(torch.tensor([[[0.5, 0.25, 0.0]]]), torch.tensor([[0]]))["sizes"]
    tensor([[1.5000]])
    """
    own = weights.gather(2, keep[..., None])[..., 0]
    most, slots = weights.max(1)
    joined = slots.masked_fill(most <= 0, -1)
    members = joined.scatter(1, keep, torch.arange(keep.shape[1], device=keep.device).expand_as(keep))
    return {"members": members, "sizes": (weights.sum(2) / own).where(own > 0, 1), "weights": weights}


def merge_alike(
    values: Tensor, keep: Tensor, members: Tensor | None, weights: Tensor | None = None, shares: Tensor | None = None
) -> Tensor:
    """Values (B, N, H) of tokens as kept ones (B, K) merged their features: (B, K, H).

    By ``weights`` (B, K, N) where a method gave them, else the sum over ``members`` (B, N) times their ``shares``
    (B, N), without these the mean, and without members their own.

    >>> values, keep = torch.tensor([[[1.0], [3.0], [5.0]]]), torch.tensor([[0, 2]])
    >>> merge_alike(values, keep, torch.tensor([[0, 0, 1]])).tolist()
    [[[2.0], [5.0]]]
    """
    if weights is not None:
        return (weights.to(values.device) @ values.float()).to(values.dtype)
    if members is None:
        return gather_tokens(values, keep.to(values.device))
    members = members.to(values.device)
    slots = members.masked_fill(members < 0, keep.shape[1])  # what is gone is summed up behind the last
    parts = values.float() if shares is None else values.float() * shares.to(values.device)[..., None]
    sums = values.new_zeros(len(values), keep.shape[1] + 1, values.shape[2], dtype=torch.float32)
    sums.scatter_add_(1, slots[..., None].expand_as(values), parts)
    if shares is None:
        counts = torch.zeros_like(sums[..., 0]).scatter_add_(1, slots, torch.ones_like(slots, dtype=torch.float32))
        sums = sums / counts.clamp(min=1)[..., None]
    return sums[:, :-1].to(values.dtype)


def distance_weight(grid: Grid, keep: Tensor, d_thresh: float) -> Tensor:
    """P_ij = 1 - min(1, d_ij / sqrt(d_thresh)) of kept tokens (..., K) to all cells: (..., K, N).

    d_ij is the Euclidean distance on the grid; ``d_thresh`` is squared, as in the paper's Table 7. (The paper prints
    max for min, which would make every weight zero or negative.)

    >>> distance_weight((1, 4), torch.tensor([0]), d_thresh=4).tolist()
    [[1.0, 0.5, 0.0, 0.0]]
    """
    place = coordinates(grid, keep.device)
    # The matrix-product shortcut of cdist loses digits that neighbouring cells differ in.
    distance = torch.cdist(place[keep], place, compute_mode="donot_use_mm_for_euclid_dist")
    return distance.div_(-math.sqrt(d_thresh)).add_(1).clamp_(min=0)


def affinity(similar: Tensor, keep: Tensor, grid: Grid, d_thresh: float) -> Tensor:
    """A * P of kept tokens (B, K) to all, A_ij = ReLU(cos(v_i, v_j)) of ``similar`` (B, N, D): (B, K, N)."""
    direction = functional.normalize(similar.float(), dim=-1)
    # in this order, since the gradient of a ReLU is read off its result, which nobody may change any more
    return (gather_tokens(direction, keep) @ direction.mT).mul_(distance_weight(grid, keep, d_thresh)).relu_()


def collector_weights(similar: Tensor, keep: Tensor, grid: Grid, d_thresh: float) -> Tensor:
    """W: rows of `affinity`, each summing to one (to zero where a token resembles none, itself included): (B, K, N)."""
    weight = affinity(similar, keep, grid, d_thresh)
    return weight / weight.sum(-1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)


def aggregate(features: Tensor, keep: Tensor, pillar: Tensor, weight: Tensor) -> Tensor:
    """Pillars keep their features, the other kept tokens become weighted sums over all tokens of the image.

    Features (B, N, D), keep (B, K), pillar (B, K) bool, weight (B, K, N) -> (B, K, D).

    >>> features, weight = torch.tensor([[[1.0], [3.0]]]), torch.full((1, 2, 2), 0.5)
    >>> aggregate(features, torch.tensor([[0, 1]]), torch.tensor([[True, False]]), weight).tolist()
    [[[1.0], [2.0]]]
    """
    own = gather_tokens(features, keep)
    return torch.where(pillar[..., None], own, (weight @ features.float()).to(own.dtype))


def collected(weight: Tensor, keep: Tensor, pillar: Tensor) -> dict[str, Tensor]:
    """`soft_members` of what `aggregate` did with these arguments: pillars gathered nothing but themselves."""
    itself = torch.zeros_like(weight).scatter_(2, keep[..., None], 1)
    return soft_members(torch.where(pillar[..., None], itself, weight), keep)
