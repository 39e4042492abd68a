"""HoloV (arXiv 2510.02912; code obananas/HoloV, commit 1d2e65e): tokens shared out over crops of the image.

Every crop gets a quota by its mean score, CLS attention plus a share of how varied its tokens are; inside a crop the
most attended tokens stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from nuwa.pruners.base import MethodInfo, Tap, VisionContext, VisionDecision, require
from nuwa.pruners.tiles import TileByTile
from nuwa.pruning.flops import ModelShape, attention_score_flops, cosine_flops
from nuwa.pruning.layout import Grid, coordinates
from nuwa.pruning.selection import strongest

SCALE, EPS = 1e3, 1e-6
"""The release multiplies attention with the first and guards divisions with the second."""


def crops_of(grid: Grid, crops: int, spatial: bool) -> list[Tensor]:
    """Token indices of each crop: blocks of a square grid of crops, or equal pieces of the raster."""
    n_tokens = grid[0] * grid[1]
    if not spatial:
        return list(torch.arange(n_tokens).tensor_split(min(crops, n_tokens)))
    side = max(1, round(crops**0.5))
    place = (coordinates(grid) * side // torch.tensor(grid)).long()
    crop = place[:, 0] * side + place[:, 1]
    return [(crop == i).nonzero()[:, 0] for i in crop.unique().tolist()]


def crop_score(features: Tensor, attention: Tensor, alpha: float) -> Tensor:
    """Mean score of a crop (B,): attention (B, n), plus ``alpha`` times the spread of each token's cosines.

    The spread runs over all n columns of features (B, n, D), the own one set to zero, as released; a lone token has
    none.
    """
    attention, others = attention.float() * SCALE, max(attention.shape[1] - 1, 1)
    direction = functional.normalize(features.float(), dim=-1)
    cosine = direction @ direction.mT
    cosine.diagonal(0, 1, 2).fill_(0)
    mean = cosine.sum(2, keepdim=True) / others
    spread = (cosine - mean).square().sum(2) / others
    size = attention.abs().mean(1, keepdim=True) / (spread.abs().mean(1, keepdim=True) + EPS)
    return (attention + alpha * spread * size).mean(1)


def quotas(scores: Tensor, sizes: Sequence[int], keep: int) -> Tensor:
    """Share ``keep`` tokens out over crops of ``sizes`` by score (B, C): rounded down, one more each to the heaviest.

    A crop that gets more than it has passes the rest on to the heaviest crops with room, one by one and in turn (the
    release fills up with zero tokens instead): (B, C).
    """
    weight, room = scores / (scores.sum(1, keepdim=True) + EPS), torch.tensor(sizes, device=scores.device)
    given = (weight * keep).floor().long()
    heavier = weight.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    given = (given + (heavier < keep - given.sum(1, keepdim=True))).minimum(room)
    seat = torch.arange(max(sizes), device=scores.device)
    free = (seat >= given[..., None]) & (seat < room[:, None])
    turn = (seat - given[..., None]) * len(sizes) + heavier[..., None]
    rank = turn.masked_fill(~free, max(sizes) * len(sizes)).flatten(1).argsort(dim=1, stable=True).argsort(dim=1)
    return given + (free & (rank.view_as(free) < (keep - given.sum(1))[:, None, None])).sum(2)


@dataclass
class HoloV(TileByTile):
    """Share the tokens out over crops of the image, and keep the most attended ones of each.

    ``crops`` is their number and ``alpha`` the weight of variety, the authors' 16 and 0.09.

    The paper speaks of spatial crops, which are the default: 4 x 4 blocks. ``variant: release`` takes the release's: 16
    equal pieces of the raster, a row and a half each. Tokens reach the LLM crop by crop, the most attended first. For
    LLaVA-NeXT the authors publish no numbers; its tiles are taken one by one (``tiles``), as the released code would.
    """

    crops: int = 16
    alpha: float = 0.09
    variant: Literal["paper", "release"] = "paper"

    name: ClassVar[str] = "holov"
    native_position: ClassVar[str] = "perc"
    in_raster_order: ClassVar[bool] = False
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="arXiv 2510.02912",
        source="obananas/HoloV@1d2e65e",
        signal="CLS attention, quotas by attention and variety per crop",
        counts="authors' for 64",
    )
    taps: ClassVar[Mapping[str, Tap]] = {"attention": Tap("cls_attention")}

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.crops >= 1, "crops", "1 or more", self.crops)
        require(self.alpha >= 0, "alpha", "0 or more", self.alpha)

    def prune_vision(self, context: VisionContext, keep: int) -> VisionDecision:
        salience = context.taps["attention"].float().mean(1)
        if keep == salience.shape[1]:
            return VisionDecision(torch.arange(keep, device=salience.device).expand(len(salience), -1))
        crops = [c.to(salience.device) for c in crops_of(context.grid, self.crops, self.variant == "paper")]
        projected = context.project(context.features)
        scores = [crop_score(projected[:, crop], salience[:, crop], self.alpha) for crop in crops]
        share = quotas(torch.stack(scores, 1), list(map(len, crops)), keep)
        return VisionDecision(self._choose(salience, crops, share, keep), extras={"salience": salience})

    def _choose(self, attention: Tensor, crops: list[Tensor], share: Tensor, keep: int) -> Tensor:
        """The best ``share`` (B, C) of each crop, crop by crop, best first; crops that stay whole in raster order."""
        keys, size = [], attention.shape[1]
        for number, (crop, quota) in enumerate(zip(crops, share.T[..., None], strict=True)):
            raster = torch.arange(len(crop), device=attention.device)
            rank = strongest(attention[:, crop], len(crop)).argsort(dim=1)
            key = number * size + torch.where(quota == len(crop), raster, rank)
            keys.append(key.masked_fill(rank >= quota, len(crops) * size))
        return torch.cat(crops)[torch.cat(keys, 1).argsort(dim=1, stable=True)[:, :keep]]

    def metric_flops(self, n_tokens: int, shape: ModelShape) -> float:
        """One attention row, and all pairs within crops."""
        pairs = self.crops * cosine_flops(n_tokens / self.crops, shape.hidden)
        return attention_score_flops(1, n_tokens, shape.vision_hidden) + pairs
