"""DPC-kNN (Du et al. 2016): clusters around density peaks, many groups of points at once. Pure functions.

A point is dense where its nearest neighbours are near; a peak is dense and far from all that is denser. Two points that
are each other's nearest are equally dense where two neighbours count, so that both are peaks; released code tells them
apart by random ``noise``, and here the ``first`` may count as the denser one.

Shape letters: G groups, N places for the points of a group, D width, C clusters of the group that has most.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from nuwa.pruning.masks import gather_tokens
from nuwa.pruning.selection import strongest

NEIGHBOURS = 7
"""What the authors of FlashVID, HoliTom and PruneVid measure a density by."""


def distances(points: Tensor, there: Tensor) -> Tensor:
    """Euclidean distances over the root of the width, infinite to points that are not ``there``: (G, N, N) float32."""
    # The matrix-product shortcut of cdist loses the digits that near neighbours differ in.
    apart = torch.cdist(points.float(), points.float(), compute_mode="donot_use_mm_for_euclid_dist")
    return apart.div_(math.sqrt(points.shape[-1])).masked_fill_(~there[:, None], math.inf)


def peak_scores(
    apart: Tensor, there: Tensor, neighbours: Sequence[int], noise: Tensor | None = None, first: bool = False
) -> Tensor:
    """How much each point is a density peak: (G, N), minus infinity for those that are not ``there`` (G, N).

    The density, by as many ``neighbours`` as each group says (a point is its own first one), times the distance to the
    nearest denser point, or to the farthest point if none is denser. ``apart`` are `distances`.
    """
    near = apart.topk(min(max(neighbours), apart.shape[-1]), largest=False).values.square()
    counted = torch.minimum(torch.tensor(neighbours, device=apart.device), there.sum(1)).clamp(min=1)[:, None]
    near = near.masked_fill(torch.arange(near.shape[-1], device=near.device) >= counted[..., None], 0)
    density = (near.sum(-1) / counted).neg().exp()
    density = (density if noise is None else density + noise).masked_fill(~there, -1)
    denser = density[:, None] > density[..., None]
    if first:
        denser |= (density[:, None] == density[..., None]) & torch.ones_like(denser).tril(-1)
    farthest = apart.masked_fill(~(there[:, None] & there[..., None]), 0).amax((1, 2))
    height = torch.where(denser, apart, farthest[:, None, None]).amin(-1)
    return (height * density).masked_fill(~there, -math.inf)


def density_clusters(
    points: Tensor,
    counts: Sequence[int],
    neighbours: Sequence[int] | None = None,
    there: Tensor | None = None,
    noise: Tensor | None = None,
    first: bool = False,
) -> tuple[Tensor, Tensor]:
    """Sort the points (G, N, D) of every group into its number of clusters, around its highest peaks.

    Returns the centres (G, C), highest first (behind a group's own stand any points), and the cluster of every point
    (G, N), -1 in a group without any.

    Args:
        points: (G, N, D).
        counts: the clusters of each group, no more than its points.
        neighbours: see `peak_scores`; as many as clusters by default.
        there: (G, N) bool, where groups have points; others get -1. None: all places are taken.
        noise: (G, N) to be added to densities.
        first: whether the first of equally dense points counts as the denser one.
    """
    there = torch.ones_like(points[..., 0], dtype=torch.bool) if there is None else there
    apart = distances(points, there)
    centres = strongest(peak_scores(apart, there, neighbours or counts, noise, first), max(1, *counts))
    place = torch.arange(centres.shape[1], device=centres.device)
    real = place < torch.tensor(counts, device=centres.device)[:, None]
    reach = apart.gather(2, centres[:, None].expand(-1, points.shape[1], -1)).masked_fill(~real[:, None], math.inf)
    nearest = reach.argmin(-1)
    own = torch.where(real, place, nearest.gather(1, centres))
    return centres, nearest.scatter(1, centres, own).masked_fill(~there | ~real[:, :1], -1)


def clusters_of_frames(
    tokens: Tensor,
    alive: Tensor,
    sizes: Sequence[int],
    counts: Sequence[int],
    neighbours: Sequence[int],
    first: bool = False,
) -> tuple[Tensor, Tensor]:
    """`density_clusters` of those tokens of frames (G, N, D) that are ``alive`` (G, N), ``sizes`` (G,) a frame.

    Tokens are numbered frame by frame. Returns the numbers of all centres (C,), frame by frame, and the cluster of each
    token (G N,), -1 for those that are in none.
    """
    slots, device = torch.full((alive.numel(),), -1, device=tokens.device), tokens.device
    some = [group for group, count in enumerate(counts) if count]
    if not some:
        return slots[:0], slots
    largest = max(sizes[group] for group in some)
    place = alive[some].byte().argsort(dim=1, descending=True, stable=True)[:, :largest]
    there = (
        torch.arange(largest, device=device) < torch.tensor([sizes[group] for group in some], device=device)[:, None]
    )
    own, near = ([values[group] for group in some] for values in (counts, neighbours))
    peaks, label = density_clusters(gather_tokens(tokens[some], place), own, near, there, first=first)
    number = torch.arange(alive.numel(), device=device).view_as(alive)[some].gather(1, place)
    size = torch.tensor(own, device=device)[:, None]
    label = (label + size.cumsum(0) - size).masked_fill(label < 0, -1)
    slots = slots.scatter(0, number.flatten(), label.flatten())
    real = [row * peaks.shape[1] + rank for row, count in enumerate(own) for rank in range(count)]
    return number.gather(1, peaks).flatten()[torch.tensor(real, device=device)], slots


def cluster_means(points: Tensor, member: Tensor, clusters: int) -> Tensor:
    """Mean of each cluster: (..., M, D), (..., M) -> (..., C, D)."""
    share = torch.nn.functional.one_hot(member, clusters).to(points.dtype)
    return share.mT @ points / share.sum(-2)[..., None]
