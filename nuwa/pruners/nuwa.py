"""Nüwa (arXiv 2602.02951) by the paper's equations: separation, alignment, aggregation, then text-guided pruning.

Stage 1, before the LLM, keeps the most salient tokens of every small region of the image and lets each of them collect
its like from nearby. Stage 2, inside the LLM, keeps the tokens closest to the question. `nuwa_release` is the released
code, which differs in most of the numbers and some of the formulas.

Shape letters as in `base`: B images, N tokens of a view, K kept tokens, H heads, D feature width, L sequence length.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from nuwa.pruners.base import LLMContext, MethodInfo, Pruner, Tap, VisionContext, VisionDecision, require
from nuwa.pruning.flops import ModelShape, cosine_flops, norm_flops
from nuwa.pruning.layout import Grid
from nuwa.pruning.merging import aggregate, collected, collector_weights
from nuwa.pruning.schedules import Schedule, layer_at, two_stages
from nuwa.pruning.selection import text_relevance, top_by_region, top_quantile, top_tokens


def key_salience(cls_attention: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Salience (B, N) = CLS attention (B, H, N), mean over heads, times the norm of the key (B, N, D); and that norm.

    The norm runs over all heads together; the paper leaves that open, and whether heads are summed or averaged does
    not change a rank.
    """
    norm = keys.float().norm(dim=-1)
    return cls_attention.float().mean(1) * norm, norm


@dataclass
class NuwaStages(Pruner):
    """What the paper's and the released Nüwa share: options, the choice by regions, and stage 2 at random.

    ``region=False`` chooses by salience over the whole image, ``pillar=False`` lets aggregation change every token,
    ``random=True`` makes stage 2 draw tokens.
    """

    d_thresh: float = 280.0
    region: bool = True
    pillar: bool = True
    random: bool = False
    region_size: int = 2
    pillar_quantile: float | None = None
    stage2_layer: float = 0.5

    behind_vision: ClassVar[Set[str]] = frozenset({"random", "stage2_layer"})

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.d_thresh > 0, "d_thresh", "a positive squared distance", self.d_thresh)
        require(self.region_size >= 1, "region_size", "1 cell or more", self.region_size)
        quantile = self.pillar_quantile
        require(quantile is None or 0 <= quantile <= 1, "pillar_quantile", "in [0, 1]", quantile)
        require(0 < self.stage2_layer < 1, "stage2_layer", "a fraction of the depth in (0, 1)", self.stage2_layer)

    def choose(self, salience: Tensor, grid: Grid, keep: int, candidates: int = 1) -> Tensor:
        """Ascending indices (B, K) of the tokens that stay, by salience (B, N); see `top_by_region`."""
        if not self.region:
            return top_tokens(salience, keep)
        return top_by_region(salience, grid, self.region_size, keep, candidates)

    def rate(self, context: LLMContext) -> Tensor:
        """Scores (B, L) by which stage 2 keeps tokens."""
        raise NotImplementedError

    def prune_llm(self, context: LLMContext, keep: Tensor) -> Tensor:
        return context.top_k(context.random_scores(self.seed) if self.random else self.rate(context), keep)


@dataclass
class Nuwa(NuwaStages):
    """Both stages of the paper.

    ``d_thresh`` is a squared distance in grid cells, ``stage2_layer`` a fraction of the LLM's depth, ``stage2_ratio``
    the stage-2 tokens per stage-1 token (Table 10: 112 -> 16; 1 switches stage 2 off). On LLaVA-NeXT the table prints
    32, 16 and 9 % of all tokens -> 4, 2 and 1 %, which is 1/8; the released counts are a tenth (1162 -> 116 of 2,880).
    ``random`` is the paper's "random" ablation.
    """

    pillar_quantile: float = 0.75
    stage2_ratio: float = 1 / 7

    name: ClassVar[str] = "nuwa"
    behind_vision: ClassVar[Set[str]] = NuwaStages.behind_vision | {"budget", "stage2_ratio"}
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="arXiv 2602.02951",
        source="Man-PaperRejected/Nuwa@175b7d5",
        signal="CLS attention times key norm per region; cosine with the question",
        merges=True,
        text_aware=True,
        counts="paper's Table 10",
    )
    taps: ClassVar[Mapping[str, Tap]] = {"attention": Tap("cls_attention"), "keys": Tap("keys")}

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.stage2_ratio <= 1, "stage2_ratio", "in (0, 1]", self.stage2_ratio)

    def schedule(self, n_tokens: int, layers: int) -> Schedule:
        """Counts of both stages; the ratio gives way where stage 1 would need more tokens than the image has."""
        target, stage2 = self.budget.tokens(n_tokens), layer_at(self.stage2_layer, layers)
        schedule = two_stages(target, n_tokens, layers, stage2, self.stage2_ratio)
        return self.reached(schedule, target, layers, "it keeps one token or more in every layer")

    def prune_vision(self, context: VisionContext, keep: int) -> VisionDecision:
        salience, norm = key_salience(context.taps["attention"], context.taps["keys"])
        kept = self.choose(salience, context.grid, keep)
        pillar = top_quantile(norm, kept, self.pillar_quantile) & self.pillar
        weight = collector_weights(context.features, kept, context.grid, self.d_thresh)
        features = aggregate(context.features, kept, pillar, weight)
        extras = {"salience": salience, "pillar": pillar}
        return VisionDecision(kept, features, extras, **collected(weight, kept, pillar))

    def rate(self, context: LLMContext) -> Tensor:
        """Closeness to the question.

        The mean runs over the text after the image, not over all text: the paper says "text", but inside an LLM the
        first token is an attention sink whose huge norm would be the mean of any text that includes it.
        """
        return text_relevance(context.hidden, context.question)

    def metric_flops(self, n_tokens: int, shape: ModelShape) -> float:
        """Norms of all tokens at the LLM's width and all pairs of kept tokens at the tower's: the paper's Table 4."""
        kept = self.schedule(n_tokens, shape.layers).vision
        return norm_flops(n_tokens, shape.hidden) + cosine_flops(kept, shape.vision_hidden)
