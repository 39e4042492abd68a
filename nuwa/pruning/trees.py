"""Trees through time: a token hangs on the token of the frame before that it resembles most. Pure functions.

What a tree stands for may move: its tokens need not share a cell. F frames of N tokens, numbered frame by frame.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from nuwa.pruning.selection import top_of_each_group


def best_before(features: Tensor, free: Tensor, segment: Tensor) -> tuple[Tensor, Tensor]:
    """Of each token (F, N, D) the most similar one of the frame before: its cosine (F, N) and its number (F, N).

    Only ``free`` (F, N) tokens look and are looked at, and only inside a ``segment`` (F,); others get minus infinity.
    Of equals the first one counts.
    """
    direction = functional.normalize(features.float(), dim=-1)
    cosine = direction[1:] @ direction[:-1].mT
    both = free[1:, :, None] & free[:-1, None] & (segment[1:] == segment[:-1])[:, None, None]
    best, parent = cosine.masked_fill(~both, -math.inf).max(-1)
    start = torch.arange(len(features) - 1, device=features.device)[:, None] * features.shape[1]
    return functional.pad(best, (0, 0, 1, 0), value=-math.inf), functional.pad(parent + start, (0, 0, 1, 0))


def roots(parent: Tensor, linked: Tensor) -> Tensor:
    """The root of each token's tree (F, N), its own number where it is ``linked`` (F, N) to no ``parent`` (F, N).

    >>> roots(torch.tensor([[0, 0], [1, 0], [2, 2]]), torch.tensor([[False, False], [True, False], [True, True]]))
    tensor([[0, 1],
            [1, 3],
            [1, 1]])
    """
    own = torch.arange(parent.numel(), device=parent.device)
    root = torch.where(linked.flatten(), parent.flatten(), own)
    for _ in range(len(parent).bit_length()):
        root = root[root]
    return root.view_as(parent)


def hang(
    features: Tensor, free: Tensor, segment: Tensor, most: Tensor, above: float, release: bool = False
) -> tuple[Tensor, Tensor]:
    """The root of each token's tree (F N,), and the token's share (F N,) in what the tree becomes.

    ``free`` (F, N) tokens of frames (F, N, D) hang on those that they resemble by ``above`` or more. Of a segment no
    more do than ``most`` (F,) says of its frames together: the strongest links.
    """
    group = segment.repeat_interleave(free.shape[1])
    best, parent = best_before(features, free, segment)
    linked = (best > above if release else best >= above).flatten()
    most = torch.zeros_like(most).scatter_add(0, segment, most)
    if release:  # its threshold is the strongest of the links that are too many
        most = most - (torch.zeros_like(most).scatter_add(0, group, linked.long()) > most).long()
    linked &= top_of_each_group(best.flatten(), group, most)
    root, one = roots(parent, linked.view_as(free)).flatten(), torch.ones_like(group)
    sizes = torch.zeros_like(group).scatter_add(0, root, one)
    if release:
        sizes = one.scatter_add(0, parent.flatten(), linked.long())
    return root, 1 / sizes[root]
