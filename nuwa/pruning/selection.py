"""Scoring and choosing tokens: the operations that methods share. Pure functions.

Equal scores go to the lower index, so that a choice is the same in every batch and on every machine.

Shape letters: B images or prompts, N tokens of a view, K kept tokens, L sequence length, I images of a prompt, D width.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor
from torch.nn import functional

from nuwa.pruning.layout import Grid, coordinates


def strongest(score: Tensor, count: int) -> Tensor:
    """Indices of the ``count`` highest scores, highest first: (..., N) -> (..., count).

    >>> strongest(torch.tensor([0.1, 0.7, 0.2, 0.7]), 3).tolist()
    [1, 3, 2]
    """
    return score.argsort(dim=-1, descending=True, stable=True)[..., :count]


def top_tokens(score: Tensor, keep: int) -> Tensor:
    """Indices of the ``keep`` highest scores in ascending order: (..., N) -> (..., K).

    >>> top_tokens(torch.tensor([[0.1, 0.7, 0.2, 0.7]]), 3).tolist()
    [[1, 2, 3]]
    """
    return strongest(score, keep).sort(dim=-1).values


def marked(stays: Tensor) -> tuple[Tensor, Tensor]:
    """Indices (B, K) of what is marked in (B, N), ascending, and how many of each row are (B,).

    K is the largest number; what fills shorter rows is not marked. The device is read once.

    >>> marked(torch.tensor([[False, True, True], [True, False, False]]))
    (tensor([[1, 2],
            [0, 1]]), tensor([2, 1]))
    """
    counts = stays.sum(1)
    return (~stays).byte().argsort(dim=1, stable=True)[:, : int(counts.max())], counts


def top_of_each_image(score: Tensor, image: Tensor, keep: Tensor) -> Tensor:
    """Mark the best ``keep`` (B, I) tokens of every image: scores and ordinals (B, L) of I > 0 images -> (B, L) bool.

    >>> score, image = torch.tensor([[3.0, 1, 2, 9, 8]]), torch.tensor([[0, 0, 0, -1, 1]])
    >>> top_of_each_image(score, image, keep=torch.tensor([[2, 1]])).tolist()
    [[True, False, True, False, True]]
    """
    kept = []
    for ordinal in range(keep.shape[1]):
        mine = image == ordinal
        order = strongest(score.masked_fill(~mine, float("-inf")), score.shape[1])
        rank = order.argsort(dim=1)
        kept.append(mine & (rank < keep[:, ordinal, None]))
    return functools.reduce(torch.bitwise_or, kept)


def top_of_each_group(score: Tensor, group: Tensor, keep: Tensor) -> Tensor:
    """Mark the best ``keep`` (G,) of every group: scores and ordinals (M,) of G groups -> (M,) bool.

    >>> score, group = torch.tensor([3.0, 1, 2, 9, 8]), torch.tensor([0, 0, 0, 1, 1])
    >>> top_of_each_group(score, group, keep=torch.tensor([2, 1])).tolist()
    [True, False, True, True, False]
    """
    best = strongest(score, len(score))
    best = best[group[best].argsort(stable=True)]  # group by group, best first
    sizes = torch.zeros_like(keep).scatter_add(0, group, torch.ones_like(group))
    rank = torch.arange(len(score), device=score.device) - (sizes.cumsum(0) - sizes)[group[best]]
    return torch.zeros_like(score, dtype=torch.bool).scatter(0, best, rank < keep[group[best]])


def top_quantile(score: Tensor, keep: Tensor, quantile: float) -> Tensor:
    """Mark the kept tokens (B, K) whose score (B, N) reaches the quantile of their image's kept tokens: (B, K) bool."""
    kept = score.float().gather(1, keep)
    return kept >= kept.quantile(quantile, dim=1, keepdim=True)


def regions(grid: Grid, size: int) -> Tensor:
    """The ordinal of each cell's region (N,): ``size`` x ``size`` cells, fewer at the right and bottom borders.

    >>> regions((3, 3), 2).tolist()
    [0, 0, 1, 0, 0, 1, 2, 2, 3]
    """
    place = coordinates(grid).long() // size
    return place[:, 0] * math.ceil(grid[1] / size) + place[:, 1]


def candidates_per_region(region: Tensor, keep: int) -> int:
    """The fewest candidates that each region has to offer for ``keep`` tokens to be chosen from them all.

    On 24x24 tokens these are the released Nüwa's 1, 2, 3 for average 64, 128, 192 (commit 175b7d5).

    >>> [candidates_per_region(regions((24, 24), 2), keep) for keep in (112, 224, 336)]
    [1, 2, 3]
    """
    sizes = region.bincount()
    count = math.ceil(keep / len(sizes))
    while sizes.clamp(max=count).sum() < min(keep, len(region)):
        count += 1
    return count


def top_in_regions(score: Tensor, region: Tensor, per_region: int, keep: int) -> Tensor:
    """Each region offers its ``per_region`` best tokens, and the ``keep`` best of these stay, in ascending order.

    Scores (B, N), region (N,) -> (B, K). All regions together must offer ``keep`` tokens.

    >>> top_in_regions(torch.tensor([[4.0, 3, 2, 1]]), torch.tensor([0, 0, 1, 1]), 1, 2).tolist()
    [[0, 2]]
    """
    sizes = region.bincount()  # where the regions are is known before any score: no device is asked
    starts = (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    offered = (torch.arange(len(region), device=region.device) - starts < per_region).to(score.device)
    best = strongest(score, score.shape[1])
    best = best.gather(1, region.to(score.device)[best].argsort(dim=1, stable=True))  # region by region, best first
    candidate = torch.zeros_like(score, dtype=torch.bool).scatter(1, best, offered.expand_as(best))
    return top_tokens(score.masked_fill(~candidate, float("-inf")), keep)


def top_by_region(score: Tensor, grid: Grid, size: int, keep: int, least: int = 1) -> Tensor:
    """`top_in_regions` of ``size``, which offer as few candidates as suffice, but ``least`` or more."""
    region = regions(grid, size)
    return top_in_regions(score, region, max(least, candidates_per_region(region, keep)), keep)


def text_relevance(hidden: Tensor, text: Tensor) -> Tensor:
    """Cosine of every token with the mean text vector: (B, L, D), text (B, L) bool -> (B, L)."""
    hidden = hidden.float()
    query = hidden.masked_fill(~text[..., None], 0).sum(1) / text.sum(1, keepdim=True).clamp_min(1)
    hidden, query = (functional.normalize(states, dim=-1, eps=1e-8) for states in (hidden, query[:, None]))
    return (hidden * query).sum(-1)
