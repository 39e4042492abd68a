"""The paper's quantities, each a pure function of attention rows or hidden states.

Shape letters: B rows (prompts), H heads, Q queries, L keys, N visual tokens, D width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from nuwa.engine.groups import GROUPS


def group_flow(weights: Tensor, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """How much each group gives to each other group (paper Fig. 3, 7), summed over the queries of a group.

    Args:
        weights: (B, Q, L), the head mean of attention, or of attention times its gradient.
        queries, keys: (B, Q) and (B, L) groups; what belongs to nobody counts for nothing.

    Returns:
        sums (B, G, G), from the group that looks to the group looked at, and the queries (B, G) that they sum over.
        Divided by each other, they say where a token of a group looks; for attention these shares sum to one.
    """
    names = torch.arange(len(GROUPS), device=weights.device)
    asking = (queries[:, None] == names[:, None]).float()
    asked = (keys[..., None] == names).float()
    return asking @ weights.float() @ asked, asking.sum(-1)


def row_entropy(weights: Tensor) -> Tensor:
    """H = -sum_j p_j log2 p_j of rows (..., N) scaled to sum to one, in bits; a row of zeros has none: (...)."""
    total = weights.sum(-1, keepdim=True)
    shares = weights / total.clamp_min(torch.finfo(weights.dtype).tiny)
    return -torch.special.xlogy(shares, shares).sum(-1) / math.log(2)


def visual_attention_entropy(attention: Tensor, first: int = 0, causal: bool = True) -> Tensor:
    """H(v_i) = -sum_{j<i} p_ij log2 p_ij (Eq. 1) for visual tokens i = ``first`` and on: (..., Q, N) -> (..., Q).

    ``attention`` is the head mean between the visual tokens of one image. p_ij is what v_i gives to v_j as a share of
    what it gives to the earlier visual tokens, so that attention to text, or to a sink, does not count as order.
    Token 0 has no earlier one and gets 0. ``causal=False`` takes all tokens j, for towers that look both ways.
    """
    return row_entropy((attention.tril(first - 1) if causal else attention).float())


def mean_entropy(entropies: Tensor) -> Tensor:
    """VAE (Eq. 1): the mean of H(v_i) over i >= 2, counted from one: (..., N) -> (...)."""
    return entropies[..., 1:].mean(-1)


def object_cohesion(hidden: Tensor, members: Tensor, center: int) -> float:
    """Object-Centric Cohesion (Eq. 2): IoU of an object's tokens with the k tokens most like its centre token.

    ``hidden`` (N, D) of one view, ``members`` (k,) the tokens of the object's box, ``center`` the token at its centre,
    which is the first of its own k nearest. Likeness is the cosine; of equals the first count.
    """
    likeness = functional.cosine_similarity(hidden.float(), hidden[center].float()[None], dim=-1)
    nearest = likeness.argsort(descending=True, stable=True)[: len(members)]
    shared = int(torch.isin(nearest, members.to(nearest.device)).sum())
    return shared / (2 * len(members) - shared)


def text_alignment(hidden: Tensor, vision: Tensor, text: Tensor) -> Tensor:
    """Cosine of visual tokens with the mean text vector (paper Fig. 8, 9): (L, D), (N,), (T,) indices -> (N,)."""
    mean = hidden[text].float().mean(0, keepdim=True)
    return functional.cosine_similarity(hidden[vision].float(), mean, dim=-1)


def top_overlap(one: Tensor, other: Tensor, count: int = 3) -> float:
    """Share of the ``count`` highest of two scores (N,) that are the same tokens (paper, D.1); the first of equals."""
    best = [set(values.argsort(descending=True, stable=True)[:count].tolist()) for values in (one, other)]
    return len(best[0] & best[1]) / min(count, len(one))


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean of some values and its standard error (nan for a single value)."""
    data = torch.tensor(list(values), dtype=torch.float64)
    return float(data.mean()), float(data.std() / len(data) ** 0.5) if len(data) > 1 else float("nan")
