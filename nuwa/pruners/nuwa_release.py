"""Nüwa as released (Man-PaperRejected/Nuwa, commit 175b7d5), which differs from the paper's equations (`nuwa`).

Salience is CLS attention alone; pillars are the upper 45 % of the kept tokens by it; similarity is measured on hidden
states averaged over the last third of the tower; a collector's own weight is set to one *after* its row is normalised,
so that weights sum to about two; stage 2 follows the last token's attention.

On LLaVA-NeXT every tile gets the same number of tokens, whatever of it is padding, regions offer more candidates, and
half of the tokens are pillars. The released class for it has to be put in place by hand, and fails unless THRE is set.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from nuwa.pruners.base import LLMContext, MethodInfo, Tap, VisionContext, VisionDecision
from nuwa.pruners.nuwa import NuwaStages
from nuwa.pruning.flops import ModelShape, attention_score_flops, cosine_flops
from nuwa.pruning.layout import Grid
from nuwa.pruning.merging import affinity, aggregate, collected
from nuwa.pruning.schedules import Schedule, layer_at
from nuwa.pruning.selection import top_quantile
from nuwa.pruning.tiling import ByTile, Tiling

STAGE1_COUNTS: Mapping[float | None, int] = {64: 112, 128: 224, 192: 336, 160: 290, 320: 582, 640: 1162}
"""Stage-1 tokens of an image by average, where the released code lists them; the last three are LLaVA-NeXT's."""

STAGE2_COUNTS = {112: 16, 224: 32, 336: 48}
"""Stage-2 tokens by stage-1 tokens where the released code lists them; a tenth otherwise."""

TILED_CANDIDATES: Mapping[float | None, int] = {160: 2, 320: 3, 640: 3}
"""Candidates per region of LLaVA-NeXT by average, where the released code lists them."""


def stage2_count(first: int) -> int:
    """How many of ``first`` stage-1 tokens the released code keeps in stage 2."""
    return STAGE2_COUNTS.get(first, int(0.1 * first))


def release_weights(similar: Tensor, keep: Tensor, pillar: Tensor, grid: Grid, d_thresh: float) -> Tensor:
    """Weights (B, K, N) from similarity features (B, N, D): rows normalised, then the own weight set to one."""
    weight = affinity(similar, keep, grid, d_thresh).masked_fill(pillar[..., None], 0)
    weight = weight / (weight.sum(-1, keepdim=True) + 1e-8)
    return weight.scatter_(-1, keep[..., None], 1.0)


@dataclass
class NuwaRelease(NuwaStages):
    """The released LLaVA code; options as in ``Nuwa``.

    The released base class has no switches; its ablation class has ``region``, ``pillar`` and ``random`` and, unlike
    the base class, takes pillars by the norm of the patch *features*: ``ablation_class=True`` does that.
    ``pillar_quantile`` is the class's by default: 0.55, and 0.5 for LLaVA-NeXT.

    Three mistakes of the LLaVA-NeXT class are left out: it stitches the tiles of wide and tall images in the wrong
    order, gives out position ids and roles as if there were no newlines, and keeps the newline of rows without tokens.
    """

    ablation_class: bool = False

    name: ClassVar[str] = "nuwa_release"
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="arXiv 2602.02951",
        source="Man-PaperRejected/Nuwa@175b7d5",
        signal="CLS attention per region; attention of the last prompt token",
        merges=True,
        text_aware=True,
        counts="authors'",
    )
    needs: ClassVar[Set[str]] = {"previous"}
    # Layers 16 to 24 of CLIP-L's 24.
    taps: ClassVar[Mapping[str, Tap]] = {"attention": Tap("cls_attention"), "states": Tap("hidden_mean", start=2 / 3)}

    @property
    def tiling(self) -> Tiling:
        return ByTile()

    def schedule(self, n_tokens: int, layers: int) -> Schedule:
        """The listed stage-1 count, or else the one whose released stage-2 count comes closest to the budget."""
        target, stage2 = self.budget.tokens(n_tokens), layer_at(self.stage2_layer, layers)
        tenth = round(target * layers / (stage2 + 0.1 * (layers - stage2)))
        counts = {first for first in (*STAGE2_COUNTS, tenth - 1, tenth, tenth + 1, n_tokens) if 1 <= first <= n_tokens}
        options = [Schedule(first, ((stage2, stage2_count(first)),)) for first in counts]
        best = min(options, key=lambda option: (abs(option.average(layers) - target), option.vision))
        listed = STAGE1_COUNTS.get(self.budget.average, n_tokens + 1)
        if listed <= n_tokens and self.stage2_layer == 0.5:
            best = Schedule(listed, ((stage2, stage2_count(listed)),))
        highest = self.max_schedule(n_tokens, layers).average(layers)
        lowest = Schedule(10, ((stage2, 1),)).average(layers)
        reachable = f"with stage 2 at a tenth of stage 1 it reaches {lowest:.1f} to {highest:.1f} of {n_tokens} tokens"
        return self.reached(best, target, layers, reachable)

    def max_schedule(self, n_tokens: int, layers: int) -> Schedule:
        """All tokens, and a tenth of them, one at least, in stage 2."""
        return Schedule(n_tokens, ((layer_at(self.stage2_layer, layers), max(1, stage2_count(n_tokens))),))

    def prune_vision(self, context: VisionContext, keep: int) -> VisionDecision:
        salience, tiled = context.taps["attention"].float().sum(1), context.views > 1
        candidates = TILED_CANDIDATES.get(self.budget.average, 1) if tiled else 1
        kept = self.choose(salience, context.grid, keep, candidates)
        strength = context.features.float().norm(dim=-1) if self.ablation_class else salience
        quantile = (0.5 if tiled else 0.55) if self.pillar_quantile is None else self.pillar_quantile
        pillar = top_quantile(strength, kept, quantile) & self.pillar
        weight = release_weights(context.taps["states"], kept, pillar, context.grid, self.d_thresh)
        features = aggregate(context.features, kept, pillar, weight)
        extras = {"salience": salience, "pillar": pillar}
        return VisionDecision(kept, features, extras, **collected(weight, kept, pillar))

    def rate(self, context: LLMContext) -> Tensor:
        return context.previous.last_attention()

    def metric_flops(self, n_tokens: int, shape: ModelShape) -> float:
        """One attention row and all pairs of kept tokens, counted as the paper's Table 4 counts Nüwa."""
        kept = self.schedule(n_tokens, shape.layers).vision
        return attention_score_flops(1, n_tokens, shape.hidden) + cosine_flops(kept, shape.vision_hidden)
