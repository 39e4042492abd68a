"""DPC-kNN (Du et al. 2016): clusters around density peaks, many groups of points at once. Pure functions.

A point is dense where its nearest neighbours are near; a peak is dense and far from all that is denser. Of points that
are equally dense the first counts as the denser one (released code adds random ``noise`` to tell them apart).

Shape letters: G groups, N places for the points of a group, D width, C clusters of the group that has most.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from nuwa.pruning.selection import strongest


def distances(points: Tensor, there: Tensor) -> Tensor:
    """Euclidean distances over the root of the width, infinite to points that are not ``there``: (G, N, N) float32."""
    # The matrix-product shortcut of cdist loses the digits that near neighbours differ in.
    apart = torch.cdist(points.float(), points.float(), compute_mode="donot_use_mm_for_euclid_dist")
    return apart.div_(math.sqrt(points.shape[-1])).masked_fill_(~there[:, None], math.inf)


def peak_scores(apart: Tensor, there: Tensor, neighbours: Sequence[int], noise: Tensor | None = None) -> Tensor:
    """How much each point is a density peak: (G, N), minus infinity for those that are not ``there`` (G, N).

    The density, by as many ``neighbours`` as each group says (a point is its own first one), times the distance to the
    nearest denser point, or to the farthest point if none is denser. ``apart`` are `distances`.
    """
    near = apart.topk(min(max(neighbours), apart.shape[-1]), largest=False).values.square()
    counted = torch.minimum(torch.tensor(neighbours, device=apart.device), there.sum(1)).clamp(min=1)[:, None]
    near = near.masked_fill(torch.arange(near.shape[-1], device=near.device) >= counted[..., None], 0)
    density = (near.sum(-1) / counted).neg().exp()
    density = (density if noise is None else density + noise).masked_fill(~there, -1)
    here, other = density[..., None], density[:, None]
    first = torch.ones_like(apart[0], dtype=torch.bool).tril(-1)
    farthest = apart.masked_fill(~(there[:, None] & there[..., None]), 0).amax((1, 2))
    height = torch.where((other > here) | ((other == here) & first), apart, farthest[:, None, None]).amin(-1)
    return (height * density).masked_fill(~there, -math.inf)


def density_clusters(
    points: Tensor,
    counts: Sequence[int],
    neighbours: Sequence[int] | None = None,
    there: Tensor | None = None,
    noise: Tensor | None = None,
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
    """
    there = torch.ones_like(points[..., 0], dtype=torch.bool) if there is None else there
    apart = distances(points, there)
    centres = strongest(peak_scores(apart, there, neighbours or counts, noise), max(1, *counts))
    place = torch.arange(centres.shape[1], device=centres.device)
    real = place < torch.tensor(counts, device=centres.device)[:, None]
    reach = apart.gather(2, centres[:, None].expand(-1, points.shape[1], -1)).masked_fill(~real[:, None], math.inf)
    nearest = reach.argmin(-1)
    own = torch.where(real, place, nearest.gather(1, centres))
    return centres, nearest.scatter(1, centres, own).masked_fill(~there | ~real[:, :1], -1)


def cluster_means(points: Tensor, member: Tensor, clusters: int) -> Tensor:
    """Mean of each cluster: (..., M, D), (..., M) -> (..., C, D)."""
    share = torch.nn.functional.one_hot(member, clusters).to(points.dtype)
    return share.mT @ points / share.sum(-2)[..., None]
