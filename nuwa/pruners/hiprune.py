"""HiPrune (arXiv 2508.00553; code Danielement321/HiPrune, commit 6e83a12): objects from a shallow layer, the rest from
a deep one.

Anchors receive the most attention in a shallow layer of the vision tower and bring their neighbours along; the other
places go to the tokens that receive the most in the layer whose output are the features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from nuwa.pruners.base import MethodInfo, Tap, VisionContext, VisionDecision, require
from nuwa.pruners.tiles import TileByTile
from nuwa.pruning.flops import ModelShape, attention_score_flops
from nuwa.pruning.layout import Grid
from nuwa.pruning.selection import top_tokens


def neighbourhood(anchors: Tensor, grid: Grid, wrap: bool) -> Tensor:
    """Anchors (B, A) and the tokens left, right, above and below them: (B, N) bool.

    ``wrap``: as released, by index alone, so that a row's last token neighbours the next row's first, and indices
    outside the image fall on its first or last token.
    """
    height, width = grid
    chosen = torch.zeros(len(anchors), height * width, dtype=torch.bool, device=anchors.device)
    for down, right in ((0, 0), (0, -1), (0, 1), (-1, 0), (1, 0)):
        place = (anchors + down * width + right).clamp(0, height * width - 1)
        row, column = anchors // width + down, anchors % width + right
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        chosen.scatter_(1, place if wrap else torch.where(inside, place, anchors), True)
    return chosen


@dataclass
class HiPrune(TileByTile):
    """Keep anchors of a shallow layer with their neighbours, and what a deep layer attends to most.

    ``anchor_share`` of the tokens (alpha) are anchors with their four neighbours; ``object_layer`` is the shallow
    layer as a fraction of the tower's depth. None is the authors' choice: the 9th of CLIP's 24, the 16th of the 32 of
    Qwen2.5-VL, one of the few there that see the whole image.

    Neighbours are those of the grid; ``variant: release`` takes them by index, across the ends of rows. On LLaVA-NeXT
    every crop keeps the same share of the budget (``tiles``). The authors' budgets for Qwen2.5-VL are ratios of 0.334,
    0.223 and 0.112.
    """

    anchor_share: float = 0.1
    object_layer: float | None = None
    variant: Literal["paper", "release"] = "paper"

    name: ClassVar[str] = "hiprune"
    native_position: ClassVar[str] = "perc"
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="arXiv 2508.00553",
        source="Danielement321/HiPrune@6e83a12",
        signal="attention received in a shallow and a deep layer of the tower",
        counts="authors'",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.anchor_share <= 1, "anchor_share", "a share in [0, 1]", self.anchor_share)
        layer = self.object_layer
        require(layer is None or 0 < layer <= 1, "object_layer", "null or a fraction of the depth in (0, 1]", layer)

    @property
    def taps(self) -> Mapping[str, Tap]:
        shallow = Tap("received_attention", layer=self.object_layer)
        if self.object_layer is None:
            shallow = Tap("received_attention", layer=9 / 24, windowed=16 / 32)
        return {"shallow": shallow, "deep": Tap("received_attention")}

    def prune_vision(self, context: VisionContext, keep: int) -> VisionDecision:
        shallow, deep = context.taps["shallow"], context.taps["deep"]
        anchors = top_tokens(shallow, round(keep * self.anchor_share / 5))
        chosen = neighbourhood(anchors, context.grid, self.variant == "release")
        kept = top_tokens(deep.masked_fill(chosen, float("inf")), keep)
        return VisionDecision(kept, extras={"salience": deep, "object": shallow})

    def metric_flops(self, n_tokens: int, shape: ModelShape) -> float:
        """All attention rows of two layers of the tower."""
        return 2 * attention_score_flops(n_tokens, n_tokens, shape.vision_hidden)
