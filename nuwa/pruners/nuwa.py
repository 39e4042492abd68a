"""Nüwa (arXiv 2602.02951) by the paper's equations: separation, alignment, aggregation, then text-guided pruning.

Stage 1, before the LLM, keeps the most salient tokens of every small region of the image and lets each of them collect
its like from nearby. Stage 2, inside the LLM, keeps the tokens closest to the question. `nuwa_release` is the released
code, which differs in most of the numbers and some of the formulas.

Shape letters as in `base`: B images, N tokens of a view, K kept tokens, H heads, D feature width, L sequence length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from nuwa.pruners.base import Facts, LLMContext, Pruner, Tap, VisionContext, VisionDecision, require
from nuwa.pruning.budget import ModelShape, Schedule, check_reached, cosine_flops, layer_at, norm_flops
from nuwa.pruning.layout import Grid, coordinates


def key_salience(cls_attention: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Salience (B, N) = CLS attention (B, H, N), mean over heads, times the norm of the key (B, N, D); and that norm.

    The norm runs over all heads together; the paper leaves that open, and whether heads are summed or averaged does
    not change a rank.
    """
    norm = keys.float().norm(dim=-1)
    return cls_attention.float().mean(1) * norm, norm


def regions(grid: Grid, size: int) -> Tensor:
    """The ordinal of each cell's region (N,): ``size`` x ``size`` cells, fewer at the right and bottom borders."""
    place = coordinates(grid).long() // size
    return place[:, 0] * math.ceil(grid[1] / size) + place[:, 1]


def candidates_per_region(region: Tensor, keep: int) -> int:
    """The fewest candidates each region has to offer so that ``keep`` tokens can be chosen from them all.

    On 24x24 tokens this gives the released code's 1, 2, 3 for average 64, 128, 192 (commit 175b7d5).
    """
    sizes = region.bincount()
    count = math.ceil(keep / len(sizes))
    while sizes.clamp(max=count).sum() < min(keep, len(region)):
        count += 1
    return count


def top_tokens(salience: Tensor, keep: int) -> Tensor:
    """The ``keep`` highest of (B, N), ties to the lower index, in ascending order: (B, K)."""
    return salience.argsort(dim=1, descending=True, stable=True)[:, :keep].sort(dim=1).values


def top_in_regions(salience: Tensor, region: Tensor, per_region: int, keep: int) -> Tensor:
    """Separation and alignment: each region offers its ``per_region`` best, and the ``keep`` best of these stay.

    Salience (B, N), region (N,) -> ascending indices (B, K). All regions together must offer ``keep`` tokens.
    """
    region = region.to(salience.device)
    best = salience.argsort(dim=1, descending=True, stable=True)
    best = best.gather(1, region[best].argsort(dim=1, stable=True))  # region by region, best first
    sizes = region.bincount()
    starts = (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    offered = torch.arange(len(region), device=region.device) - starts < per_region
    candidate = torch.zeros_like(salience, dtype=torch.bool).scatter(1, best, offered.expand_as(best))
    return top_tokens(salience.masked_fill(~candidate, float("-inf")), keep)


def distance_weight(grid: Grid, keep: Tensor, d_thresh: float) -> Tensor:
    """P_ij = 1 - min(1, d_ij / sqrt(d_thresh)) of kept tokens (..., K) to all cells: (..., K, N).

    d_ij is the Euclidean distance on the grid; ``d_thresh`` is squared, as in the paper's Table 7. (The paper prints
    max for min, which would make every weight zero or negative.)
    """
    place = coordinates(grid, keep.device)
    # The matrix-product shortcut of cdist loses digits that neighbouring cells differ in.
    distance = torch.cdist(place[keep], place, compute_mode="donot_use_mm_for_euclid_dist")
    return distance.div_(math.sqrt(d_thresh)).clamp_(max=1).neg_().add_(1)


def cohesion(features: Tensor, keep: Tensor, grid: Grid, d_thresh: float) -> Tensor:
    """A * P of kept tokens (B, K) to all, not normalised, A_ij = ReLU(cos(v_i, v_j)): (B, N, D) -> (B, K, N)."""
    direction = functional.normalize(features.float(), dim=-1)
    return (gather_tokens(direction, keep) @ direction.mT).relu_().mul_(distance_weight(grid, keep, d_thresh))


def gather_tokens(features: Tensor, index: Tensor) -> Tensor:
    """Rows ``index`` (B, K) of (B, N, D): (B, K, D)."""
    return features.gather(1, index[..., None].expand(-1, -1, features.shape[-1]))


def top_quantile(score: Tensor, keep: Tensor, quantile: float) -> Tensor:
    """Kept tokens whose score (B, N) reaches the quantile of the image's kept tokens: (B, K) bool."""
    kept = score.float().gather(1, keep)
    return kept >= kept.quantile(quantile, dim=1, keepdim=True)


def aggregate(features: Tensor, keep: Tensor, pillar: Tensor, grid: Grid, d_thresh: float) -> Tensor:
    """Aggregation: pillars keep v_i, the other kept tokens become sum_j W_ij v_j, rows of W = A * P summing to one.

    Features (B, N, D), keep (B, K), pillar (B, K) -> (B, K, D). The sums run over all tokens of the image.
    """
    weight = cohesion(features, keep, grid, d_thresh)
    weight /= weight.sum(-1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
    own = gather_tokens(features, keep)
    return torch.where(pillar[..., None], own, (weight @ features.float()).to(own.dtype))


def text_relevance(hidden: Tensor, text: Tensor) -> Tensor:
    """Cosine of every token with the mean text vector: (B, L, D), text (B, L) bool -> (B, L)."""
    hidden = hidden.float()
    query = hidden.masked_fill(~text[..., None], 0).sum(1) / text.sum(1, keepdim=True).clamp_min(1)
    return functional.cosine_similarity(hidden, query[:, None], dim=-1)


def random_scores(context: LLMContext, seed: int) -> Tensor:
    """A random score (B, L) per visual token that depends on the seed, the layer and the image's id only."""
    score = torch.zeros(context.image.shape, device=context.image.device)
    for row, ordinal, mine in context.each_image():
        score[row, mine] = torch.rand(len(mine), generator=context.generator(row, ordinal, seed)).to(score.device)
    return score


def choose_tokens(salience: Tensor, grid: Grid, keep: int, region_size: int | None, at_least: int = 1) -> Tensor:
    """Ascending indices (B, K) of the tokens that stay: by regions of ``region_size`` cells, or by salience alone.

    Each region offers as few candidates as suffice, but ``at_least`` so many.
    """
    if region_size is None:
        return top_tokens(salience, keep)
    region = regions(grid, region_size)
    return top_in_regions(salience, region, max(at_least, candidates_per_region(region, keep)), keep)


def check_options(method: Pruner) -> None:
    """Refuse impossible values of the options that the paper's and the released variant share."""
    require(method.d_thresh > 0, "d_thresh", "a positive squared distance", method.d_thresh)
    require(method.region_size >= 1, "region_size", "1 cell or more", method.region_size)
    quantile = method.pillar_quantile
    require(quantile is None or 0 <= quantile <= 1, "pillar_quantile", "in [0, 1]", quantile)
    require(0 < method.stage2_layer < 1, "stage2_layer", "a fraction of the depth in (0, 1)", method.stage2_layer)


@dataclass
class Nuwa(Pruner):
    """Both stages of the paper.

    ``d_thresh`` is a squared distance in grid cells. ``region=False`` chooses by salience alone; ``pillar=False``
    protects nobody, so that every kept token aggregates; ``random`` draws stage 2 at random (the paper's "random"
    ablation). ``stage2_layer`` is a fraction of the LLM's depth, ``stage2_ratio`` the stage-2 tokens per stage-1 token
    (Table 10: 112 -> 16; 1 switches stage 2 off). On LLaVA-NeXT the table prints 32, 16 and 9 % of all tokens -> 4, 2
    and 1 %, which is 1/8; the released counts are a tenth (1162 -> 116 of 2,880).
    """

    d_thresh: float = 280.0
    region: bool = True
    pillar: bool = True
    random: bool = False
    region_size: int = 2
    pillar_quantile: float = 0.75
    stage2_layer: float = 0.5
    stage2_ratio: float = 1 / 7

    name: ClassVar[str] = "nuwa"
    facts: ClassVar[Facts] = Facts(
        paper="arXiv 2602.02951",
        source="Man-PaperRejected/Nuwa@175b7d5",
        signal="CLS attention times key norm per region; cosine with the question",
        merges=True,
        text_aware=True,
        counts="paper's Table 10",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_options(self)
        require(0 < self.stage2_ratio <= 1, "stage2_ratio", "in (0, 1]", self.stage2_ratio)

    @property
    def taps(self) -> tuple[Tap, ...]:
        return (Tap("cls_attention"), Tap("keys"))

    def schedule(self, n_tokens: int, layers: int) -> Schedule:
        """Counts of both stages; the ratio gives way where stage 1 would need more tokens than the image has."""
        target, stage2 = self.budget.tokens(n_tokens), layer_at(self.stage2_layer, layers)
        total = target * layers
        first = min(n_tokens, max(1, round(total / (stage2 + self.stage2_ratio * (layers - stage2)))))
        second = min(first, max(1, round((total - first * stage2) / (layers - stage2))))
        schedule = Schedule(first, ((stage2, second),) if second < first else ())
        return check_reached(self.name, schedule, target, layers, "it keeps one token or more in every layer")

    def prune_vision(self, context: VisionContext, keep: int) -> VisionDecision:
        attention, keys = (context.taps[tap] for tap in self.taps)
        salience, norm = key_salience(attention, keys)
        kept = choose_tokens(salience, context.grid, keep, self.region_size if self.region else None)
        pillar = top_quantile(norm, kept, self.pillar_quantile) & self.pillar
        features = aggregate(context.features, kept, pillar, context.grid, self.d_thresh)
        return VisionDecision(kept, features, {"salience": salience, "pillar": pillar})

    def prune_llm(self, context: LLMContext, keep: Tensor) -> Tensor:
        """Keep the tokens closest to the question.

        The mean runs over the text after the image, not over all text: the paper says "text", but inside an LLM the
        first token is an attention sink whose huge norm would be the mean of any text that includes it.
        """
        if self.random:
            return context.top_k(random_scores(context, self.seed), keep)
        return context.top_k(text_relevance(context.hidden, context.question), keep)

    def metric_flops(self, n_tokens: int, shape: ModelShape) -> float:
        """Norms of all tokens at the LLM's width and all pairs of kept tokens at the tower's: the paper's Table 4."""
        kept = self.schedule(n_tokens, shape.layers).vision
        return norm_flops(n_tokens, shape.hidden) + cosine_flops(kept, shape.vision_hidden)
