"""Nüwa as released for Qwen2.5-VL (Man-PaperRejected/Nuwa, commit 175b7d5), unlike both its LLaVA code and the paper.

Salience is the attention a token receives in the tower's last full block, summed over queries; nine tenths of the kept
tokens are pillars; tokens are compared by the mean output of the tower's second and third quarter, passed through the
merger; weights really sum to one; cohesion ends at 0.8 of the grid's diagonal. Stage 2 follows the last three tokens'
attention, their mean, and of the heads the largest.

The released code pads odd grids with empty cells. They never win and have no similarity, so that here regions at the
border are smaller instead; what is left of the padding is the diagonal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from nuwa.pruners.base import LLMContext, MethodInfo, Pruner, Tap, VisionContext, VisionDecision, require
from nuwa.pruning.flops import ModelShape, attention_score_flops, cosine_flops
from nuwa.pruning.layout import Grid, window_order
from nuwa.pruning.merging import aggregate, collected, collector_weights
from nuwa.pruning.schedules import Schedule, layer_at, two_stages
from nuwa.pruning.selection import top_by_region, top_quantile

PRESETS = {0.25: (0.35, 0.42), 0.5: (0.6, 0.66), 0.75: (0.85, 0.7)}
"""Stage-1 share of all tokens, and stage-2 share of the survivors, by budget.ratio.

In truth they spend 0.256, 0.505 and 0.732 on the 28 layers of the 7B model.
"""
REGION, LEAST_CANDIDATES = 2, 3
ASKING = 3
"""How many of the prompt's last tokens rate the image in stage 2."""


def diagonal_threshold(grid: Grid, share: float) -> float:
    """Squared distance at ``share`` of the diagonal of the grid once its sides are even."""
    height, width = (side + side % 2 - 1 for side in grid)
    return share**2 * (height**2 + width**2)


def last_tokens_attention(context: LLMContext) -> Tensor:
    """Attention of the prompt's last tokens in this layer, their mean, the largest over heads: (B, L)."""
    length = context.hidden.shape[1]
    query = torch.arange(max(length - ASKING, 0), length, device=context.hidden.device)
    return context.attention(query).mean(2).amax(1)


@dataclass
class NuwaReleaseQwen(Pruner):
    """The released Qwen code, for any vision tower.

    ``budget.ratio`` 0.25, 0.5 and 0.75 are the released shares, although their true averages differ; other budgets are
    met exactly, stage 2 keeping the share of the nearest of these. ``distance`` is a share of the grid's diagonal.
    ``window`` (4 for Qwen2.5-VL) reproduces a bug: the features that tokens are compared by stay in the tower's order
    of windows of that many tokens per side, so that cosines are taken between the wrong places.
    """

    distance: float = 0.8
    pillar_quantile: float = 0.1
    stage2_layer: float = 0.5
    window: int | None = None

    name: ClassVar[str] = "nuwa_release_qwen"
    behind_vision: ClassVar[Set[str]] = frozenset({"budget", "stage2_layer"})
    needs: ClassVar[Set[str]] = {"previous"}
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="arXiv 2602.02951",
        source="Man-PaperRejected/Nuwa@175b7d5",
        signal="received attention per region; attention of the last three prompt tokens",
        merges=True,
        text_aware=True,
        counts="authors'",
    )
    # Blocks 7 to 23 of Qwen2.5-VL's 32.
    taps: ClassVar[Mapping[str, Tap]] = {
        "attention": Tap("received_attention"),
        "states": Tap("hidden_mean", start=0.25, stop=0.75),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.distance > 0, "distance", "a positive share of the diagonal", self.distance)
        require(0 <= self.pillar_quantile <= 1, "pillar_quantile", "in [0, 1]", self.pillar_quantile)
        require(0 < self.stage2_layer < 1, "stage2_layer", "a fraction of the depth in (0, 1)", self.stage2_layer)
        require(self.window is None or self.window >= 1, "window", "null or 1 token or more", self.window)

    def schedule(self, n_tokens: int, layers: int) -> Schedule:
        """The released counts, or those that spend another budget. Stage 2 acts behind the layer at half depth."""
        layer = min(layer_at(self.stage2_layer, layers) + 1, layers - 1)
        if self.budget.ratio in PRESETS:
            first, second = PRESETS[self.budget.ratio]
            count = math.ceil(first * n_tokens)
            return Schedule(count, ((layer, max(1, int(count * second))),))
        target = self.budget.tokens(n_tokens)
        nearest = min(PRESETS, key=lambda ratio: abs(ratio - target / n_tokens))
        schedule = two_stages(target, n_tokens, layers, layer, ratio=PRESETS[nearest][1])
        return self.reached(schedule, target, layers, "it keeps one token or more in every layer")

    def prune_vision(self, context: VisionContext, keep: int) -> VisionDecision:
        salience, similar = context.taps["attention"], context.taps["states"]
        if self.window is not None:
            similar = similar[:, window_order([(1, *context.grid)], self.window).argsort().to(similar.device)]
        kept = top_by_region(salience, context.grid, REGION, keep, LEAST_CANDIDATES)
        pillar = top_quantile(salience, kept, self.pillar_quantile)
        d_thresh = diagonal_threshold(context.grid, self.distance)
        weight = collector_weights(similar, kept, context.grid, d_thresh)
        features = aggregate(context.features, kept, pillar, weight)
        extras = {"salience": salience, "pillar": pillar}
        return VisionDecision(kept, features, extras, **collected(weight, kept, pillar))

    def prune_llm(self, context: LLMContext, keep: Tensor) -> Tensor:
        return context.top_k(last_tokens_attention(context.previous), keep)

    def metric_flops(self, n_tokens: int, shape: ModelShape) -> float:
        """Attention from all tokens to all and all pairs of kept tokens, counted as in the paper's Table 4."""
        kept = self.schedule(n_tokens, shape.layers).vision
        received = attention_score_flops(n_tokens, n_tokens, shape.hidden)
        return received + cosine_flops(kept, shape.vision_hidden)
