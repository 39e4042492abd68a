"""ToFu (arXiv 2312.01026; no official code found): rounds of bipartite matching that drop first and merge later.

The authors drop or merge tokens inside a vision tower, block by block. Here the same rounds run on the tower's output,
so that the tower stays as it is and every token keeps its place.

Shape letters: B images, N tokens of a view, n tokens of a round, r of them removed, K kept tokens, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from nuwa.pruners.base import MethodInfo, Tap, VisionContext, VisionDecision, require
from nuwa.pruners.tiles import TileByTile
from nuwa.pruners.visionzip import key_metric
from nuwa.pruning.flops import ModelShape, attention_score_flops, cosine_flops
from nuwa.pruning.masks import gather_tokens
from nuwa.pruning.selection import top_tokens


class Tokens(NamedTuple):
    """Tokens between rounds: ``place`` (B, n) in the grid, ``features`` and ``metric`` (B, n, D), ``size`` (B, n)."""

    place: Tensor
    features: Tensor
    metric: Tensor
    size: Tensor

    def take(self, index: Tensor) -> Tokens:
        """The tokens at ``index`` (B, m)."""
        return Tokens(*(gather_tokens(values, index) for values in self))


def removals(n_tokens: int, keep: int, rounds: int) -> list[int]:
    """How many tokens each round removes: equal numbers, never more than half of what is left.

    Rounds are added where the halves do not suffice.

    >>> removals(10, 4, 3), removals(16, 1, 3)
    ([2, 2, 2], [5, 5, 3, 1, 1])
    """
    step, counts = -(-(n_tokens - keep) // rounds), []
    while n_tokens > keep:
        counts.append(min(step, n_tokens // 2, n_tokens - keep))
        n_tokens -= counts[-1]
    return counts


def mlerp(weight: Tensor, target: Tokens, others: Tokens) -> Tokens:
    """Let ``others`` (r of them) go into ``target`` (m) where ``weight`` (B, r, m) is 1 and not 0.

    Features become the size-weighted mean of the members, stretched to the largest norm among them; sizes add up. A
    target that nobody joins stays as it is.
    """
    share = weight * others.size[..., None]
    size = target.size + share.sum(1)

    def mean(own: Tensor, joining: Tensor) -> Tensor:
        return (target.size[..., None] * own + share.mT @ joining) / size[..., None]

    features = mean(target.features, others.features)
    norm = (weight * others.features.norm(dim=-1)[..., None]).amax(1).maximum(target.features.norm(dim=-1))
    stretched = features * (norm / features.norm(dim=-1).clamp_min(torch.finfo(norm.dtype).tiny))[..., None]
    joined = weight.any(1)[..., None]
    features = torch.where(joined, stretched, target.features)
    return Tokens(target.place, features, torch.where(joined, mean(target.metric, others.metric), target.metric), size)


def one_round(tokens: Tokens, remove: int, merge: bool) -> tuple[Tokens, Tensor, Tensor]:
    """Without ``remove`` tokens of even rank, those most like a token of odd rank; these take them in, or not.

    Returns also the places of the tokens that left, and those of the tokens that they went into, -1 for none: (B, r).
    """
    ranks = torch.arange(tokens.place.shape[1], device=tokens.place.device).expand_as(tokens.place)
    even, odd = (tokens.take(ranks[:, start::2]) for start in (0, 1))
    directions = [functional.normalize(part.metric, dim=-1) for part in (even, odd)]
    best, partner = (directions[0] @ directions[1].mT).max(-1)
    order = torch.cat([top_tokens(best, remove), top_tokens(-best, even.place.shape[1] - remove)], 1)
    leaving, staying = even.take(order[:, :remove]), even.take(order[:, remove:])
    into = torch.full_like(leaving.place, -1)
    if merge:
        joins = partner.gather(1, order[:, :remove])
        into, weight = odd.place.gather(1, joins), functional.one_hot(joins, odd.place.shape[1])
        odd = mlerp(weight.to(odd.size.dtype), odd, leaving)
    together = Tokens(*(torch.cat(parts, 1) for parts in zip(staying, odd, strict=True)))
    return together.take(together.place.argsort(dim=1)), leaving.place, into


@dataclass
class ToFu(TileByTile):
    """Match even with odd tokens by their keys, round by round; the first rounds drop, the others merge.

    ``rounds`` stand for the authors' blocks, of which the first drop, ``dropping`` of them in all (6 of 12 in a port of
    their code). Merged tokens get the norm of the largest of them. A token that takes others in stays where it is. The
    authors' own form, inside the tower, has no published numbers on any vision-language model.
    """

    rounds: int = 12
    dropping: float = 0.5

    name: ClassVar[str] = "tofu"
    native_position: ClassVar[str] = "perc"
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="arXiv 2312.01026",
        signal="similarity of keys, even tokens against odd ones",
        merges=True,
        counts="ours: the rounds behind the tower",
    )
    taps: ClassVar[Mapping[str, Tap]] = {"attention": Tap("cls_attention"), "keys": Tap("keys")}

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.rounds >= 1, "rounds", "1 or more", self.rounds)
        require(0 <= self.dropping <= 1, "dropping", "a share in [0, 1]", self.dropping)

    def prune_vision(self, context: VisionContext, keep: int) -> VisionDecision:
        images, n_tokens = context.features.shape[:2]
        place = torch.arange(n_tokens, device=context.features.device).expand(images, -1)
        if keep == n_tokens:
            return VisionDecision(place)
        metric = key_metric(context.taps["keys"], context.taps["attention"].shape[1])
        tokens = Tokens(place, context.features.float(), metric, torch.ones_like(metric[..., 0]))
        counts = removals(n_tokens, keep, self.rounds)
        home = place
        for number, remove in enumerate(counts):
            tokens, left, into = one_round(tokens, remove, merge=number >= self.dropping * len(counts))
            moved = place.scatter(1, left, into).gather(1, home.clamp(min=0))
            home = moved.where(home >= 0, -1)
        members = tokens.place.new_zeros(images, n_tokens).scatter(1, tokens.place, place[:, :keep])
        members = members.gather(1, home.clamp(min=0)).where(home >= 0, -1)
        return VisionDecision(tokens.place, tokens.features.to(context.features.dtype), members=members)

    def metric_flops(self, n_tokens: int, shape: ModelShape) -> float:
        """A quarter of all pairs of each round, as wide as a head of the LLM (those of towers are narrower)."""
        flops = attention_score_flops(1, n_tokens, shape.vision_hidden)
        for remove in removals(n_tokens, self.schedule(n_tokens, shape.layers).vision, self.rounds):
            flops += cosine_flops(n_tokens / 2, shape.head_dim)
            n_tokens -= remove
        return flops
