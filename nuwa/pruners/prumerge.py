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
from nuwa.pruning.budget import BudgetError, Dial
from nuwa.pruning.flops import ModelShape, attention_score_flops
from nuwa.pruning.masks import gather_tokens
from nuwa.pruning.merging import soft_members
from nuwa.pruning.schedules import Schedule
from nuwa.pruning.scores import softmax_rows
from nuwa.pruning.selection import strongest
from nuwa.pruning.tiling import CropByCrop, Tiling


def one_head_attention(query: Tensor, keys: Tensor) -> Tensor:
    """CLS attention to N patches, all heads taken as one: query (B, 1, D), keys with CLS (B, 1 + N, D) -> (B, N)."""
    return softmax_rows(query[:, None], keys[:, None], query.shape[-1] ** -0.5)[:, 0, 0, 1:]


def outliers(attention: Tensor, fence: float = 1.5) -> Tensor:
    """Values (B, N) above the third quartile by more than ``fence`` interquartile ranges, counted by image: (B,)."""
    quartiles = torch.tensor([0.25, 0.75], dtype=torch.double, device=attention.device)
    low, high = attention.double().quantile(quartiles, dim=1)[..., None]
    return (attention > high + fence * (high - low)).sum(1)


def with_grid(best: Tensor, rank: Tensor, sample: Tensor) -> tuple[Tensor, Tensor]:
    """The most attended of N tokens, marked by ``best`` (B, N), and a ``sample`` (N,): places (B, N), and how many.

    The most attended come first, by ``rank`` (B, N); what else is in the sample follows in raster order, then the rest.
    """
    raster = torch.arange(len(sample), device=rank.device)
    key = torch.where(best, rank, raster + len(sample) * (2 - sample.long()))
    return key.argsort(dim=1), (best | sample).sum(1)


def every_so_many(like: Tensor, step: int) -> Tensor:
    """Every ``step``-th of N tokens (B, N), but not the last one: (N,) bool."""
    sample = torch.zeros(like.shape[1], dtype=torch.bool, device=like.device)
    sample[:-1:step] = True
    return sample


def fixed_with_grid(attention: Tensor, total: int) -> Tensor:
    """``total`` of N tokens (B, N), three quarters of them at most from an even sample, the others most attended.

    Ours: the released PruMerge+ lets the image decide on the number; its sample is about three times its outliers.
    """
    n_tokens, share = attention.shape[1], int(0.75 * total)
    if share == 0:
        return strongest(attention, total)
    step, order = math.ceil((n_tokens - 1) / share), strongest(attention, n_tokens)
    sample = every_so_many(attention, step)
    # as many of the most attended as leave room for the sample: those that are in it take none
    fits = (~sample)[order].cumsum(1) <= total - len(range(0, n_tokens - 1, step))
    best = torch.zeros_like(fits).scatter(1, order, fits)
    return with_grid(best, order.argsort(dim=1), sample)[0][:, :total]


def merging_weights(keys: Tensor, attention: Tensor, kept: Tensor, neighbours: int, variant: str) -> Tensor:
    """The weights (B, K, N) of the ``kept`` (B, K) of N tokens: of each, of its most key-similar others.

    ``paper``: the mean of a token and its ``neighbours`` nearest among the *dropped*, weighted with attention.
    Where all of these have no attention, the token stays as it is.
    ``release``: the token plus the sum of its nearest among *all others*, times their attention, not normalised.
    """
    direction, kept = functional.normalize(keys.float(), dim=-1), kept[..., None]
    excluded = kept.mT.expand(-1, kept.shape[1], -1) if variant == "paper" else kept
    similarity = (gather_tokens(direction, kept[..., 0]) @ direction.mT).scatter(2, excluded, float("-inf"))
    near = similarity.topk(min(neighbours, keys.shape[1] - excluded.shape[2]), dim=2).indices
    attention = attention[:, None].expand_as(similarity)
    itself = torch.zeros_like(similarity).scatter(2, kept, 1)
    taken = torch.zeros_like(similarity).scatter(2, near, attention.gather(2, near))
    if variant == "release":
        return itself + taken
    weights = itself * attention + taken
    whole = weights.sum(2, keepdim=True)
    return torch.where(whole > 0, weights / whole, itself)


@dataclass
class PruMerge(TileByTile):
    """Keep the tokens that stand out in the CLS token's attention, and merge into each those with similar keys.

    ``neighbours`` are merged into each kept token, the authors' 32.

    The authors score in the layer that reads LLaVA's features, which is its tower's last; where the features are the
    tower's last output (the tiny model's) it is the last layer too.

    ``adaptive`` lets each image decide on its number of tokens (its outliers, ``fence`` interquartile ranges above the
    third quartile), as published; it needs budget=full, or a run that finds the fence which spends a budget on average.
    Otherwise every image meets the budget. ``variant: release`` merges as released (see `merging_weights`) and adds one
    last token, the attention-weighted sum of all dropped ones, which sits at the most attended of them. The release
    takes quartiles over a whole batch; here each image has its own. Tokens reach the LLM by falling attention, as
    released. For LLaVA-NeXT the authors publish nothing; its crops have a CLS token each, so they are taken one by one
    (``tiles``, which knows no other way here).
    """

    neighbours: int = 32
    adaptive: bool = False
    fence: float = 1.5
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

    @property
    def dial(self) -> Dial | None:
        return Dial("fence", fewest=1e9, most=-10.0) if self.adaptive else None

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
        pooled = int(self.variant == "release" and keep > 1)
        parts = [self._merge(keys[:, 1:], attention, max(1, keep - pooled), pooled)]
        if self.adaptive:
            each = enumerate(outliers(attention, self.fence).tolist())
            parts = [self._merge(keys[i : i + 1, 1:], attention[i : i + 1], max(1, count), pooled) for i, count in each]
        gathered = [soft_members(weights, index) | {"keep": index} for index, weights in parts]
        named = {
            name: pad_sequence([row for one in gathered for row in one[name]], batch_first=True) for name in gathered[0]
        }
        counts = torch.tensor([len(row) for index, _ in parts for row in index])
        features = (named["weights"] @ context.features.float()).to(context.features.dtype)
        return VisionDecision(named.pop("keep"), features, {"salience": attention}, counts, **named)

    def _merge(self, keys: Tensor, attention: Tensor, count: int, pooled: int) -> tuple[Tensor, Tensor]:
        """Indices (B, K) and weights (B, K, N) of images that choose ``count`` tokens each."""
        kept = self._choose(attention, count)
        weights = merging_weights(keys, attention, kept, self.neighbours, self.variant)
        if not pooled or kept.shape[1] == attention.shape[1]:
            return kept, weights
        dropped = torch.ones_like(attention, dtype=torch.bool).scatter(1, kept, False)
        last = attention.masked_fill(~dropped, -1).argmax(1, keepdim=True)
        return torch.cat([kept, last], 1), torch.cat([weights, (attention * dropped)[:, None]], 1)

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
        if not self.adaptive:
            return fixed_with_grid(attention, count)
        n_tokens = attention.shape[1]
        rank = strongest(attention, n_tokens).argsort(dim=1)
        order, total = with_grid(rank < count, rank, every_so_many(attention, max(1, n_tokens // count // 3)))
        return order[:, : int(total.max())]
