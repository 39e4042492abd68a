"""LLaVA-PruMerge and PruMerge+ (arXiv 2403.15388; code 42Shawn/LLaVA-PruMerge, commit 097c041).

Tokens that stand out in the CLS token's attention stay and take in the tokens whose keys are most like theirs.
PruMerge+ adds an evenly spaced sample of the image.

Shape letters: N tokens of an image, K kept tokens, D feature width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from nuwa.pruners.base import MethodInfo, Tap, VisionContext, VisionDecision, require
from nuwa.pruners.tiles import TileByTile
from nuwa.pruning.budget import BudgetError, ModelShape, Schedule, attention_score_flops
from nuwa.pruning.merging import soft_members
from nuwa.pruning.scores import softmax_rows
from nuwa.pruning.selection import strongest
from nuwa.pruning.tiling import CropByCrop, Tiling


def one_head_attention(query: Tensor, keys: Tensor) -> Tensor:
    """CLS attention to N patches, all heads taken as one: query (B, 1, D), keys with CLS (B, 1 + N, D) -> (B, N)."""
    return softmax_rows(query[:, None], keys[:, None], query.shape[-1] ** -0.5)[:, 0, 0, 1:]


def outliers(attention: Tensor) -> int:
    """How many values (N,) are above the third quartile by more than 1.5 interquartile ranges."""
    low, high = attention.double().quantile(torch.tensor([0.25, 0.75], dtype=torch.double, device=attention.device))
    return int((attention > high + 1.5 * (high - low)).sum())


def with_grid(attention: Tensor, count: int, step: int) -> Tensor:
    """The ``count`` most attended of N tokens, then every ``step``-th token (not the last one) that is not among them.

    The most attended come first, by falling attention; the sample follows in raster order.
    """
    best = strongest(attention, count)
    sample = torch.arange(0, len(attention) - 1, step, device=attention.device)
    return torch.cat([best, sample[~torch.isin(sample, best)]])


def fixed_with_grid(attention: Tensor, total: int) -> Tensor:
    """``total`` of N tokens, three quarters of them at most from an even sample, the others most attended.

    Ours: the released PruMerge+ lets the image decide on the number; its sample is about three times its outliers.
    """
    sample = int(0.75 * total)
    if sample == 0:
        return strongest(attention, total)
    step = math.ceil((len(attention) - 1) / sample)
    for count in range(total, -1, -1):
        index = with_grid(attention, count, step)
        if len(index) <= total:
            break
    return index


def merging_weights(keys: Tensor, attention: Tensor, kept: Tensor, neighbours: int, variant: str) -> Tensor:
    """The weights (K, N) of the ``kept`` (K,) of N tokens: of each, of its most key-similar others.

    ``paper``: the mean of a token and its ``neighbours`` nearest among the *dropped*, weighted with attention.
    Where all of these have no attention, the token stays as it is.
    ``release``: the token plus the sum of its nearest among *all others*, times their attention, not normalised.
    """
    direction = functional.normalize(keys.float(), dim=-1)
    excluded = kept.expand(len(kept), -1) if variant == "paper" else kept[:, None]
    similarity = (direction[kept] @ direction.T).scatter(1, excluded, float("-inf"))
    near = similarity.topk(min(neighbours, len(keys) - excluded.shape[1]), dim=1).indices
    itself = torch.zeros_like(similarity).scatter(1, kept[:, None], 1)
    taken = torch.zeros_like(similarity).scatter(1, near, attention[near])
    if variant == "release":
        return itself + taken
    weights = itself * attention + taken
    whole = weights.sum(1, keepdim=True)
    return torch.where(whole > 0, weights / whole, itself)


@dataclass
class PruMerge(TileByTile):
    """Keep the tokens that stand out in the CLS token's attention, and merge into each those with similar keys.

    ``neighbours`` are merged into each kept token, the authors' 32.

    The authors score in the layer that reads LLaVA's features, which is its tower's last; where the features are the
    tower's last output (the tiny model's) it is the last layer too.

    ``adaptive`` lets each image decide on its number of tokens (its outliers), as published; it needs budget=full.
    Otherwise the budget is met. ``variant: release`` merges as released (see `merge`) and adds one last token, the
    attention-weighted sum of all dropped ones, which sits at the most attended of them. The release takes quartiles
    over a whole batch; here each image has its own. Tokens reach the LLM by falling attention, as released. For
    LLaVA-NeXT the authors publish nothing; its crops have a CLS token each, so that they are taken one by one
    (``tiles``, which knows no other way here).
    """

    neighbours: int = 32
    adaptive: bool = False
    variant: Literal["paper", "release"] = "paper"

    name: ClassVar[str] = "prumerge"
    native_position: ClassVar[str] = "perc"
    in_raster_order: ClassVar[bool] = False
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="arXiv 2403.15388",
        source="42Shawn/LLaVA-PruMerge@097c041",
        signal="CLS attention in the layer that reads the features",
        merges=True,
        needs_cls=True,
        counts="ours: a fixed number; theirs by `adaptive=true`",
    )
    taps: ClassVar[Mapping[str, Tap]] = {"query": Tap("reader_query"), "keys": Tap("reader_keys")}

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.tiles == "each", "tiles", "each, because stitched tiles have several CLS tokens", self.tiles)
        require(self.neighbours >= 1, "neighbours", "1 token or more", self.neighbours)

    @property
    def tiling(self) -> Tiling:
        return CropByCrop(self.concat_tiles) if self.adaptive else super().tiling

    @property
    def counts_by_itself(self) -> bool:
        return self.adaptive

    def schedule(self, n_tokens: int, layers: int) -> Schedule:
        """One count; under ``adaptive``, which refuses a budget, an upper bound."""
        if self.adaptive and not self.budget.full:
            raise BudgetError(f"pruner {self.name}: with pruner.adaptive=true the image decides; use budget=full")
        return super().schedule(n_tokens, layers)

    def prune_vision(self, context: VisionContext, keep: int) -> VisionDecision:
        images, n_tokens = context.features.shape[:2]
        if keep == n_tokens and not self.adaptive:
            return VisionDecision(torch.arange(keep, device=context.features.device).expand(images, -1))
        keys = context.taps["keys"]
        attention = one_head_attention(context.taps["query"], keys)
        parts = [self._merge(*image, keep) for image in zip(keys[:, 1:], attention, strict=True)]
        counts = torch.tensor([len(index) for index, _ in parts])
        gathered = [soft_members(weights[None], index[None]) for index, weights in parts]
        named = {name: pad_sequence([one[name][0] for one in gathered], batch_first=True) for name in gathered[0]}
        features = (named["weights"] @ context.features.float()).to(context.features.dtype)
        index = pad_sequence([index for index, _ in parts], batch_first=True)
        return VisionDecision(index, features, {"salience": attention}, counts, **named)

    def _merge(self, keys: Tensor, attention: Tensor, keep: int) -> tuple[Tensor, Tensor]:
        """Indices (K,) and weights (K, N) of one image."""
        pooled = self.variant == "release"
        kept = self._choose(attention, max(1, outliers(attention) if self.adaptive else keep - pooled))
        weights = merging_weights(keys, attention, kept, self.neighbours, self.variant)
        dropped = torch.ones(len(attention), dtype=torch.bool, device=attention.device).index_fill(0, kept, False)
        if not pooled or keep == 1 or not dropped.any():
            return kept, weights
        last = attention.masked_fill(~dropped, -1).argmax()
        return torch.cat([kept, last[None]]), torch.cat([weights, (attention * dropped)[None]])

    def _choose(self, attention: Tensor, count: int) -> Tensor:
        return strongest(attention, count)

    def metric_flops(self, n_tokens: int, shape: ModelShape) -> float:
        """One attention row, and the keys of kept tokens against all."""
        kept = self.schedule(n_tokens, shape.layers).vision
        return attention_score_flops(1, n_tokens, shape.vision_hidden) + kept * n_tokens * shape.vision_hidden


@dataclass
class PruMergePlus(PruMerge):
    """PruMerge with an even sample of the image besides; options as there.

    Adaptive, the sample takes every s-th token, s a third of one over the share of outliers, both rounded down; where
    more than a third are outliers the release fails, and here s is 1.
    """

    name: ClassVar[str] = "prumerge_plus"

    def _choose(self, attention: Tensor, count: int) -> Tensor:
        if self.adaptive:
            return with_grid(attention, count, max(1, len(attention) // count // 3))
        return fixed_with_grid(attention, count)
