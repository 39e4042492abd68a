"""VisionZip (arXiv 2412.04467; code dvlab-research/VisionZip, commit 3151f6d): dominant tokens plus merged context.

Dominant tokens are the patches that the CLS token attends to most, and the CLS token itself. Of the rest, evenly
spaced targets each take in the tokens most similar to them.

Shape letters as in `base`: B images, N tokens of a view, K kept tokens, H heads, D feature width.
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
from nuwa.pruning.masks import gather_tokens
from nuwa.pruning.merging import join
from nuwa.pruning.selection import top_tokens


def key_metric(keys: Tensor, heads: int) -> Tensor:
    """Keys (B, N, D), heads concatenated, averaged over heads: (B, N, D / H)."""
    return keys.float().unflatten(-1, (heads, -1)).mean(2)


def split_rest(dominant: Tensor, n_tokens: int, contextual: int) -> tuple[Tensor, Tensor]:
    """Targets (B, contextual), evenly spaced over what ``dominant`` (B, K) leaves of N tokens, and all others."""
    taken = torch.zeros(len(dominant), n_tokens, dtype=torch.bool, device=dominant.device)
    rest = taken.scatter(1, dominant, True).byte().argsort(dim=1, stable=True)[:, : n_tokens - dominant.shape[1]]
    step = max(1, rest.shape[1] // max(1, contextual))
    is_target = torch.zeros(rest.shape[1], dtype=torch.bool)
    is_target[::step][:contextual] = True
    targets, others = (places.nonzero()[:, 0].to(rest.device) for places in (is_target, ~is_target))
    return rest[:, targets], rest[:, others]


def nearest_target(metric: Tensor, targets: Tensor, others: Tensor) -> Tensor:
    """Which of the targets (B, contextual) each of the others (B, M) is most cosine-similar to: (B, M)."""
    direction = functional.normalize(metric, dim=-1)
    return (gather_tokens(direction, others) @ gather_tokens(direction, targets).mT).argmax(-1)


def merge_context(features: Tensor, targets: Tensor, others: Tensor, nearest: Tensor, average: bool) -> Tensor:
    """Each target with the others whose ``nearest`` it is: (B, contextual, D).

    ``average``: the mean of them all; otherwise the target plus the mean of the others. A target that nobody chose
    stays as it is.
    """
    assigned = functional.one_hot(nearest, targets.shape[1]).float()
    own, count = gather_tokens(features, targets).float(), assigned.sum(1)[..., None]
    gathered = assigned.mT @ gather_tokens(features, others).float()
    merged = (own + gathered) / (1 + count) if average else own + gathered / count.clamp_min(1)
    return merged.to(features.dtype)


@dataclass
class VisionZip(TileByTile):
    """Keep the tokens that the CLS token attends to most, and merge the rest into a few evenly spaced ones.

    ``contextual`` is the share of merged tokens: 10 of 64, as in the authors' 54 + 10 (108 + 20, 162 + 30).

    Tokens reach the LLM as released: CLS, dominant patches in raster order, merged tokens. The CLS token has no place
    in the grid; it takes the smallest dropped index, which matters only where original ids are kept (PESP, RPME). A
    merged token sits at its target. Without a CLS token all dominant tokens are patches.

    The paper averages a target and the others that chose it; ``variant: release``, with which its numbers were made,
    adds the mean of the others to the target.

    On LLaVA-NeXT every crop is compressed by itself (``tiles``; so the author in issue #17): 108 + 20, 54 + 10, 27 + 5
    of each at 640, 320, 160. Behind the first crop's tokens come the dominant ones of the tiles in raster order, their
    CLS tokens, and what they merged.
    """

    contextual: float = 10 / 64
    variant: Literal["paper", "release"] = "paper"

    name: ClassVar[str] = "visionzip"
    native_position: ClassVar[str] = "perc"
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="arXiv 2412.04467",
        source="dvlab-research/VisionZip@3151f6d",
        signal="CLS attention",
        merges=True,
        counts="authors'",
    )
    taps: ClassVar[Mapping[str, Tap]] = {
        "attention": Tap("cls_attention"),
        "keys": Tap("keys"),
        "cls": Tap("cls_feature"),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.contextual < 1, "contextual", "a share of the tokens in [0, 1)", self.contextual)

    def prune_vision(self, context: VisionContext, keep: int) -> VisionDecision:
        attention, cls = context.taps["attention"], context.taps.get("cls")
        salience = attention.float().sum(1)
        contextual = self._merged(keep)
        dominant = top_tokens(salience, keep - contextual - (cls is not None))
        targets, others = split_rest(dominant, salience.shape[1], contextual)
        index, features = [dominant], [gather_tokens(context.features, dominant)]
        if cls is not None:
            index.insert(0, others[:, :1])
            features.insert(0, cls.to(context.features.dtype))
        if not contextual:
            return VisionDecision(torch.cat(index, 1), torch.cat(features, 1), {"salience": salience})
        nearest = nearest_target(key_metric(context.taps["keys"], attention.shape[1]), targets, others)
        features.append(merge_context(context.features, targets, others, nearest, self.variant == "paper"))
        kept = torch.cat([*index, targets], 1)
        members = join(kept, salience.shape[1], others, nearest + keep - contextual)
        return VisionDecision(kept, torch.cat(features, 1), {"salience": salience}, members=members)

    def concat_tiles(self, tiles: Sequence[Tensor]) -> Tensor:
        ends = [len(tile) - self._merged(len(tile)) for tile in tiles]
        dominant = torch.cat([tile[1:end] for tile, end in zip(tiles, ends, strict=True)]).sort().values
        merged = [tile[end:] for tile, end in zip(tiles, ends, strict=True)]
        return torch.cat([dominant, *(tile[:1] for tile in tiles), *merged])

    def _merged(self, keep: int) -> int:
        """How many of ``keep`` tokens of a grid are merged ones."""
        return min(round(self.contextual * keep), keep - 1)

    def metric_flops(self, n_tokens: int, shape: ModelShape) -> float:
        """One attention row and all pairs of kept tokens (Table 4)."""
        kept = self.schedule(n_tokens, shape.layers).vision
        return attention_score_flops(1, n_tokens, shape.hidden) + cosine_flops(kept, shape.vision_hidden)
