"""Nüwa as released (Man-PaperRejected/Nuwa, commit 175b7d5), which differs from the paper's equations (`nuwa`).

Salience is CLS attention alone; pillars are the upper 45 % of the kept tokens by it; similarity is measured on hidden
states averaged over the last third of the tower; a collector's own weight is set to one *after* its row is normalised,
so that weights sum to about two; stage 2 follows the last token's attention.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from nuwa.pruners.base import Facts, LLMContext, Pruner, Tap, VisionContext, VisionDecision
from nuwa.pruners.fastv import last_token_attention
from nuwa.pruners.nuwa import (
    check_options,
    choose_tokens,
    cohesion,
    gather_tokens,
    random_scores,
    top_quantile,
)
from nuwa.pruning.budget import ModelShape, Schedule, attention_score_flops, check_reached, cosine_flops, layer_at
from nuwa.pruning.layout import Grid

STAGE2_COUNTS = {112: 16, 224: 32, 336: 48}
"""Stage-2 tokens by stage-1 tokens where the released code lists them; a tenth otherwise."""


def stage2_count(first: int) -> int:
    """How many of ``first`` stage-1 tokens the released code keeps in stage 2."""
    return STAGE2_COUNTS.get(first, int(0.1 * first))


def release_weights(similar: Tensor, keep: Tensor, pillar: Tensor, grid: Grid, d_thresh: float) -> Tensor:
    """Weights (B, K, N) from similarity features (B, N, D): rows normalised, then the own weight set to one."""
    weight = cohesion(similar, keep, grid, d_thresh).masked_fill_(pillar[..., None], 0)
    weight /= weight.sum(-1, keepdim=True) + 1e-8
    return weight.scatter_(-1, keep[..., None], 1.0)


@dataclass
class NuwaRelease(Pruner):
    """The released LLaVA code; options as in ``Nuwa``.

    The released base class has no switches; its ablation class has ``region``, ``pillar`` and ``random`` and, unlike
    the base class, takes pillars by the norm of the patch *features*: ``ablation_class=True`` does that.
    """

    d_thresh: float = 280.0
    region: bool = True
    pillar: bool = True
    random: bool = False
    ablation_class: bool = False
    region_size: int = 2
    pillar_quantile: float = 0.55
    stage2_layer: float = 0.5

    name: ClassVar[str] = "nuwa_release"
    looks_back: ClassVar[bool] = True
    facts: ClassVar[Facts] = Facts(
        paper="arXiv 2602.02951",
        source="Man-PaperRejected/Nuwa@175b7d5",
        signal="CLS attention per region; attention of the last prompt token",
        merges=True,
        text_aware=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_options(self)

    @property
    def taps(self) -> tuple[Tap, ...]:
        # Layers 16 to 24 of CLIP-L's 24.
        return (Tap("cls_attention"), Tap("hidden_mean", start=2 / 3))

    def schedule(self, n_tokens: int, layers: int) -> Schedule:
        """The stage-1 count whose released stage-2 count comes closest to the budget."""
        target, stage2 = self.budget.tokens(n_tokens), layer_at(self.stage2_layer, layers)
        tenth = round(target * layers / (stage2 + 0.1 * (layers - stage2)))
        counts = {first for first in (*STAGE2_COUNTS, tenth - 1, tenth, tenth + 1, n_tokens) if 1 <= first <= n_tokens}
        options = [Schedule(first, ((stage2, stage2_count(first)),)) for first in counts]
        best = min(options, key=lambda option: (abs(option.average(layers) - target), option.vision))
        highest = Schedule(n_tokens, ((stage2, stage2_count(n_tokens)),)).average(layers)
        lowest = Schedule(10, ((stage2, 1),)).average(layers)
        reachable = f"with stage 2 at a tenth of stage 1 it reaches {lowest:.1f} to {highest:.1f} of {n_tokens} tokens"
        return check_reached(self.name, best, target, layers, reachable)

    def prune_vision(self, context: VisionContext, keep: int) -> VisionDecision:
        attention, similar = (context.taps[tap] for tap in self.taps)
        salience = attention.float().sum(1)
        kept = choose_tokens(salience, context.grid, keep, self.region_size if self.region else None)
        strength = context.features.float().norm(dim=-1) if self.ablation_class else salience
        pillar = top_quantile(strength, kept, self.pillar_quantile) & self.pillar
        weight = release_weights(similar, kept, pillar, context.grid, self.d_thresh)
        merged = (weight @ context.features.float()).to(context.features.dtype)
        features = torch.where(pillar[..., None], gather_tokens(context.features, kept), merged)
        return VisionDecision(kept, features, {"salience": salience, "pillar": pillar})

    def prune_llm(self, context: LLMContext, keep: Tensor) -> Tensor:
        score = random_scores(context, self.seed) if self.random else last_token_attention(context)
        return context.top_k(score, keep)

    def metric_flops(self, n_tokens: int, shape: ModelShape) -> float:
        """One attention row and all pairs of kept tokens, counted as the paper's Table 4 counts Nüwa."""
        kept = self.schedule(n_tokens, shape.layers).vision
        return attention_score_flops(1, n_tokens, shape.hidden) + cosine_flops(kept, shape.vision_hidden)
