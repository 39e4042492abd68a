"""RESTORE (ICML 2026; code cvlab-yonsei/RESTORE, commit 9b27e687, GPL-3.0): half kept, the rest merged in place.

Another method keeps half of the tokens. The others are merged into as many, and each merged token stands at the median
of its members' places. Written from the formulas; none of the authors' code is used.

Shape letters: B images, N tokens of a view, K kept tokens, M tokens to merge, A anchors, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from nuwa.pruners.base import MethodInfo, Pruner, Tap, Tower, VisionContext, VisionDecision
from nuwa.pruners.catalogue import find_method
from nuwa.pruning.budget import Budget
from nuwa.pruning.flops import ModelShape, cosine_flops
from nuwa.pruning.masks import gather_tokens
from nuwa.pruning.selection import top_tokens


def left_over(chosen: Tensor, n_tokens: int) -> Tensor:
    """The indices (B, M), ascending, that ``chosen`` (B, K) leaves of N tokens.

    >>> left_over(torch.tensor([[1, 3]]), 5).tolist()
    [[0, 2, 4]]
    """
    taken = torch.zeros(len(chosen), n_tokens, dtype=torch.uint8, device=chosen.device).scatter(1, chosen, 1)
    return taken.argsort(dim=1, stable=True)[:, : n_tokens - chosen.shape[1]]


def find_anchors(direction: Tensor, count: int, denser: bool = True) -> Tensor:
    """The most distinctive of M unit vectors (B, M, D), ascending: (B, ``count``).

    A token's density is the sum of its cosines to all M. It is distinctive if it is dense and unlike every token that
    is denser (with ``denser`` false: less dense).
    """
    cosine = direction @ direction.mT
    density = cosine.sum(-1)
    others = density[:, None] > density[..., None] if denser else density[:, None] < density[..., None]
    nearest = cosine.masked_fill(~others, float("-inf")).amax(-1)
    return top_tokens(density * (1 - torch.where(others.any(-1), nearest, 0)), count)


def join_anchors(direction: Tensor, anchors: Tensor) -> Tensor:
    """Which of the anchors (B, A) each of M unit vectors (B, M, D) is most like: (B, M). Anchors join themselves."""
    owner = (direction @ gather_tokens(direction, anchors).mT).argmax(-1)
    return owner.scatter(1, anchors, torch.arange(anchors.shape[1], device=owner.device).expand_as(anchors))


def median_members(owner: Tensor, clusters: int) -> Tensor:
    """The lower median of the indices of each cluster's members: owners (B, M) -> (B, ``clusters``).

    >>> median_members(torch.tensor([[0, 1, 0, 0, 0]]), 2).tolist()
    [[2, 1]]
    """
    sizes = functional.one_hot(owner, clusters).sum(1)
    starts = sizes.cumsum(1) - sizes
    return owner.argsort(dim=1, stable=True).gather(1, starts + (sizes - 1) // 2)


@dataclass
class Restore(Pruner):
    """Keep half of the tokens by ``base``, and merge all others into the other half.

    Tokens are merged after the projector, with equal weights. A merged token takes the place of its median member, and
    all are in raster order. The method is more than its choice: native ids are medians (which on one axis are those of
    the places), and the native calibration is RESTORE's, which takes a mask of numbers (`nuwa.pruning.calibration`).

    The paper compares an anchor with denser tokens; the released code (``variant: release``) with less dense ones. Text
    and code name LLaVA-1.5 only; elsewhere every grid is merged by itself.
    """

    base: Literal["divprune", "vispruner", "holov"] = "divprune"
    variant: Literal["paper", "release"] = "paper"

    name: ClassVar[str] = "restore"
    native_position: ClassVar[str] = "median"
    native_calibration: ClassVar[str] = "restore"
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="ICML 2026",
        source="cvlab-yonsei/RESTORE@9b27e687",
        signal="that of `base`, and the density of projected features",
        merges=True,
        counts="authors'",
    )

    @classmethod
    def position_on(cls, axes: int, asked: str = "native") -> str:
        """Medians on every axis of M-RoPE too."""
        return cls.native_position if asked == "native" else asked

    @property
    def chooser(self) -> Pruner:
        """The method that chooses what is kept, with the options of its config file, shown whole grids."""
        kind, options = find_method(self.base)
        return kind(budget=Budget(), seed=self.seed, **options)

    @property
    def taps(self) -> Mapping[str, Tap]:
        return self.chooser.taps

    def check_tower(self, tower: Tower) -> None:
        self.chooser.check_tower(tower)

    def prune_vision(self, context: VisionContext, keep: int) -> VisionDecision:
        images, n_tokens = context.features.shape[:2]
        everything = torch.arange(n_tokens, device=context.features.device).expand(images, -1)
        if keep == n_tokens:
            return VisionDecision(everything)
        chosen = everything[:, :0]
        if keep > 1:
            chosen = self.chooser.prune_vision(context, keep // 2).keep
        rest = left_over(chosen, n_tokens)
        projected = context.project(context.features)
        others = gather_tokens(projected, rest).float()
        direction = functional.normalize(others, dim=-1)
        owner = join_anchors(direction, find_anchors(direction, keep - keep // 2, self.variant == "paper"))
        member = functional.one_hot(owner, keep - keep // 2).float()
        merged = (member.mT @ others / member.sum(1)[..., None]).to(projected.dtype)
        place = torch.cat([chosen, rest.gather(1, median_members(owner, keep - keep // 2))], 1)
        kept, order = place.sort(dim=1)
        states = gather_tokens(torch.cat([gather_tokens(projected, chosen), merged], 1), order)
        slot = torch.zeros_like(everything).scatter(1, rest, owner + chosen.shape[1])
        slot = slot.scatter(1, chosen, everything[:, : chosen.shape[1]])
        return VisionDecision(kept, projected=states, members=order.argsort(dim=1).gather(1, slot))

    def metric_flops(self, n_tokens: int, shape: ModelShape) -> float:
        """The base's choice, all pairs of the others, and these against the anchors."""
        kept = self.schedule(n_tokens, shape.layers).vision
        rest, chooser = n_tokens - kept // 2, self.chooser
        chooser.budget = Budget(average=max(1, kept // 2))
        pairs = cosine_flops(rest, shape.hidden) + rest * (kept - kept // 2) * shape.hidden
        return chooser.metric_flops(n_tokens, shape) + pairs
