"""VisPruner (arXiv 2412.01818; code Theia-4869/VisPruner, commit aefa01a): important tokens by CLS attention, then
diverse ones.

The rest, sorted by attention, is thinned out: again and again it is split into even and odd places, and the few even
tokens most similar to an odd one go.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from nuwa.pruners.base import MethodInfo, Tap, VisionContext, VisionDecision, require
from nuwa.pruners.tiles import TileByTile
from nuwa.pruning.flops import ModelShape, attention_score_flops, cosine_flops
from nuwa.pruning.masks import gather_tokens
from nuwa.pruning.selection import strongest

PER_ROUND, PORTION = 8, 512
"""Tokens that go in one round, as released, and that are compared with all others at once."""


def thin_out(features: Tensor, rest: Tensor, keep: int) -> Tensor:
    """Remove near-duplicates from the places ``rest`` (B, R) of features (B, N, D), sorted by attention: (B, keep).

    The surviving even places go on by falling similarity, then the odd ones. Where the parity falls decides what is
    compared with what: rounding errors of the input may change the result.
    """
    direction = functional.normalize(features.float(), dim=-1)
    while rest.shape[1] > max(keep, 1):
        even, odd = rest[:, ::2], rest[:, 1::2]
        others, parts = gather_tokens(direction, odd).mT, gather_tokens(direction, even).split(PORTION, 1)
        nearest = torch.cat([(part @ others).amax(2) for part in parts], 1)
        gone = min(PER_ROUND, rest.shape[1] - keep, even.shape[1])
        rest = torch.cat([even.gather(1, strongest(nearest, even.shape[1])[:, gone:]), odd], 1)
    return rest[:, :keep]


@dataclass
class VisPruner(TileByTile):
    """Keep the tokens that the CLS token attends to most, and of the rest those that are least alike.

    ``important`` is the share of tokens chosen by attention alone, the authors' 0.5.

    The release fails where the rest has an odd length; here the even places are then one more than the odd ones. On
    LLaVA-NeXT it takes 128, 64, 32 tokens of every crop (``tiles``) for 640, 320, 160.
    """

    important: float = 0.5

    name: ClassVar[str] = "vispruner"
    native_position: ClassVar[str] = "perc"
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="arXiv 2412.01818",
        source="Theia-4869/VisPruner@aefa01a",
        signal="CLS attention, then distance between features",
        counts="authors'",
    )
    taps: ClassVar[Mapping[str, Tap]] = {"attention": Tap("cls_attention")}

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.important <= 1, "important", "a share in [0, 1]", self.important)

    def prune_vision(self, context: VisionContext, keep: int) -> VisionDecision:
        salience = context.taps["attention"].float().mean(1)
        order = strongest(salience, salience.shape[1])
        first = int(keep * self.important)
        kept = torch.cat([order[:, :first], thin_out(context.features, order[:, first:], keep - first)], 1)
        return VisionDecision(kept.sort(dim=1).values, extras={"salience": salience})

    def metric_flops(self, n_tokens: int, shape: ModelShape) -> float:
        """One attention row, and a quarter of all pairs of what is left in every round."""
        kept = self.schedule(n_tokens, shape.layers).vision
        first = int(kept * self.important)
        rounds = range(n_tokens - first, kept - first, -PER_ROUND)
        pairs = sum(cosine_flops(left, shape.vision_hidden) / 4 for left in rounds)
        return attention_score_flops(1, n_tokens, shape.vision_hidden) + pairs
