"""PruneSID (ICLR 2026; code ZhengyaoFang/PruneSID, commit 4ef17d96): groups by principal components, then no doubles.

Tokens that load on the same principal component of the image form a group. In each group tokens that resemble a better
one are suppressed, and groups share the tokens out by how many are left.

Shape letters: B images, N tokens of a view, K kept tokens, D width, Q components and groups.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from nuwa.pruners.base import MethodInfo, Tap, VisionContext, VisionDecision
from nuwa.pruners.tiles import TileByTile
from nuwa.pruning.flops import ModelShape, attention_score_flops, cosine_flops
from nuwa.pruning.masks import gather_tokens
from nuwa.pruning.selection import strongest


def loadings(features: Tensor, noise: Tensor) -> Tensor:
    """How strongly each token loads on the image's first components: (B, N, D), noise (B, N, Q) -> (B, N, Q).

    Tokens are the columns of a matrix of sigmoids, centred over its rows. ``torch.pca_lowrank`` does the same, with
    noise of its own.
    """
    matrix = features.float().sigmoid().mT
    matrix = matrix - matrix.mean(1, keepdim=True)
    basis = torch.linalg.qr(matrix @ noise).Q
    for _ in range(2):
        basis = torch.linalg.qr(matrix.mT @ basis).Q
        basis = torch.linalg.qr(matrix @ basis).Q
    return torch.linalg.svd(basis.mT @ matrix, full_matrices=False).Vh.mT.abs()


def suppress(direction: Tensor, group: Tensor, score: Tensor, threshold: Tensor) -> Tensor:
    """Which tokens outlive suppression inside their groups: (B, N) bool.

    Unit vectors (B, N, D) are visited by falling score (B, N); each that is still there suppresses those of its group
    whose cosine with it is above the threshold (B,). All images and tokens at once, until nothing changes.
    """
    rank = strongest(score, score.shape[1]).argsort(dim=1)
    clash = direction @ direction.mT > threshold[:, None, None]
    clash &= (group[:, None] == group[..., None]) & (rank[:, None] < rank[..., None])
    alive, before = torch.ones_like(group, dtype=torch.bool), torch.zeros_like(group, dtype=torch.bool)
    while not torch.equal(alive, before):
        alive, before = ~(clash & alive[:, None]).any(-1), alive
    return alive


def group_quotas(sizes: Sequence[int], survivors: Sequence[int], keep: int, spare: int) -> list[int]:
    """How many of ``keep`` tokens each group gives, of its ``sizes`` tokens of which ``survivors`` outlived.

    One of every group, ``keep`` less these and ``spare`` in proportion to the survivors, no more than a cap, and what
    is missing from the groups with most survivors. Caps rise together while they do not suffice.
    """
    caps = [min(5 * math.ceil((keep + spare) / 64), n, size) for n, size in zip(survivors, sizes, strict=True)]
    while sum(caps) < keep:
        caps = [min(cap + 1, size) for cap, size in zip(caps, sizes, strict=True)]
    least = [min(1, size) for size in sizes]
    rest = max(0, keep - sum(least))
    ends = [round(total / max(1, sum(survivors)) * rest) for total in accumulate(survivors)]
    steps = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    given = [min(low + step, cap) for low, step, cap in zip(least, steps, caps, strict=True)]
    for group in sorted(range(len(sizes)), key=lambda group: -survivors[group]):
        given[group] += max(0, min(caps[group] - given[group], keep - sum(given)))
    return given


@dataclass
class PruneSID(TileByTile):
    """Group tokens by principal components, suppress doubles, and keep the best of every group.

    With a CLS token, as in the authors' LLaVA file: a token's score is its CLS attention, the CLS token itself is one
    of the kept, a quarter as many components as tokens are kept, and tokens reach the LLM group by group. The CLS token
    takes the smallest dropped index, which matters only where original ids are kept.

    Without one, as in their Qwen2-VL file: the score is the loading on the own component, and there are four components
    or more; similarity is averaged over half of all pairs. Tokens reach the LLM in raster order (in the release above
    150 tokens only). The paper's count per image is in neither file. Noise is drawn for every image by itself.
    """

    name: ClassVar[str] = "prunesid"
    native_position: ClassVar[str] = "perc"
    in_raster_order: ClassVar[bool] = False
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="ICLR 2026",
        source="ZhengyaoFang/PruneSID@4ef17d96",
        signal="principal components, CLS attention inside groups",
        counts="authors'",
    )
    taps: ClassVar[Mapping[str, Tap]] = {"attention": Tap("cls_attention"), "cls": Tap("cls_feature")}

    def prune_vision(self, context: VisionContext, keep: int) -> VisionDecision:
        images, n_tokens, width = context.features.shape
        if keep == n_tokens:
            return VisionDecision(torch.arange(keep, device=context.features.device).expand(images, -1))
        components = min(max(keep // 4, 1 if "cls" in context.taps else 4), n_tokens, width)
        noise = [
            torch.randn(n_tokens, components, generator=context.generator(image, self.seed)) for image in range(images)
        ]
        return self.decide(context, keep, torch.stack(noise).to(context.features.device))

    def decide(self, context: VisionContext, keep: int, noise: Tensor) -> VisionDecision:
        """`prune_vision` with the noise (B, N, Q) of the components."""
        features, cls = context.features, context.taps.get("cls")
        n_tokens = features.shape[1]
        loading, group = loadings(features, noise).max(-1)
        direction = functional.normalize(features.float(), dim=-1)
        alone, pairs = direction.square().sum((1, 2)), direction.sum(1).square().sum(-1)
        if cls is None:
            score, typical = loading, max(18 * keep / n_tokens, 1) * (pairs + alone) / 2 / n_tokens**2
        else:
            score = context.taps["attention"].float().sum(1)
            typical = keep / 32 * (pairs - alone) / (n_tokens * (n_tokens - 1))
        alive = suppress(direction, group, score, typical)
        chosen = choose(group, alive, score, noise.shape[-1], keep - (cls is not None), spare=int(cls is not None))
        extras = {"salience": score, "group": group}
        if cls is None:
            return VisionDecision(chosen.sort(dim=1).values, extras=extras)
        taken = torch.zeros_like(group).scatter(1, chosen, 1)
        place = torch.cat([taken.argmin(1, keepdim=True), chosen], 1)
        states = torch.cat([cls.to(features.dtype), gather_tokens(features, chosen)], 1)
        return VisionDecision(place, states, extras)

    def metric_flops(self, n_tokens: int, shape: ModelShape) -> float:
        """Six products with the matrix of tokens, and all pairs."""
        kept = self.schedule(n_tokens, shape.layers).vision
        components = 6 * 2 * n_tokens * shape.vision_hidden * max(kept // 4, 1)
        rows = attention_score_flops(1, n_tokens, shape.vision_hidden)
        return rows + components + cosine_flops(n_tokens, shape.vision_hidden)


def choose(group: Tensor, alive: Tensor, score: Tensor, groups: int, keep: int, spare: int) -> Tensor:
    """Indices (B, ``keep``), group by group: in each the survivors by falling score, then the suppressed."""
    member = functional.one_hot(group, groups)
    counts = torch.stack([member.sum(1), (member * alive[..., None]).sum(1)]).tolist()
    shares = [group_quotas(sizes, left, keep, spare) for sizes, left in zip(*counts, strict=True)]
    quota = torch.tensor(shares, device=group.device)
    order = strongest(score, score.shape[1])
    order = order.gather(1, alive.gather(1, order).byte().argsort(dim=1, descending=True, stable=True))
    order = order.gather(1, group.gather(1, order).argsort(dim=1, stable=True))
    mine = group.gather(1, order)
    starts = (member.sum(1).cumsum(1) - member.sum(1)).gather(1, mine)
    within = torch.arange(order.shape[1], device=group.device) - starts < quota.gather(1, mine)
    return order.gather(1, within.byte().argsort(dim=1, descending=True, stable=True)[:, :keep])
