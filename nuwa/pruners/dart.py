"""DART (arXiv 2502.11494; code ZichenWen1/DART as vendored in Chenfei-Liao/VTC-Bench, commit 983e443): drop duplicates.

A few pivots, the visual and text tokens with the largest keys, each choose the visual tokens least like themselves. No
attention is computed.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from nuwa.pruners.base import LLMContext, LLMPruner, MethodInfo, require
from nuwa.pruners.divprune import similarity_to
from nuwa.pruning.flops import ModelShape, norm_flops
from nuwa.pruning.schedules import Schedule, staged
from nuwa.pruning.selection import strongest


class Pivots(NamedTuple):
    """Tokens of every row in the order in which they choose: their ``places`` (B, P), and which are ``real`` (B, P)."""

    places: Tensor
    real: Tensor


def largest(norm: Tensor, among: Tensor, count: Tensor, limit: int) -> Pivots:
    """The ``count`` (B,) tokens with the largest norm (B, L) ``among`` (B, L), at most ``limit``, largest first."""
    places = strongest(norm.masked_fill(~among, float("-inf")), limit)
    return Pivots(places, torch.arange(places.shape[1], device=norm.device) < count[:, None])


def choose_unlike(states: Tensor, visual: Tensor, own: Pivots, pivots: Pivots, keep: Tensor) -> Tensor:
    """Mark ``keep`` (B,) tokens: the visual pivots ``own``, and what all ``pivots`` choose as least similar to them.

    ``states`` (B, L, D) are normed, ``visual`` (B, L) marks the image's tokens. Pivots choose in turn, equal numbers of
    tokens, the first ones one more where that does not divide.
    """
    direction = functional.normalize(states.float(), dim=-1)
    chosen = torch.zeros_like(visual).scatter(1, own.places, own.real)
    rest, choosing = keep - chosen.sum(1), pivots.real.sum(1).clamp_min(1)
    turn = pivots.real.cumsum(1) - 1
    take = (rest // choosing)[:, None] + (turn < (rest % choosing)[:, None])
    for place, count in zip(pivots.places.T, take.where(pivots.real, 0).T, strict=True):
        free = visual & ~chosen
        similarity = similarity_to(direction, place[:, None]).masked_fill(~free, float("inf"))
        chosen |= free & (similarity.argsort(dim=1, stable=True).argsort(dim=1) < count[:, None])
    return chosen


def in_order_of_a_set(pivots: Pivots, start: Tensor) -> Pivots:
    """The pivots in the order of a Python set of their places behind the padding, which is ``start`` (B,) long."""
    orders = []
    for row, begin in zip(torch.where(pivots.real, pivots.places, -1).tolist(), start.tolist(), strict=True):
        chosen = [begin + place for place in {place - begin for place in row if place >= 0}]
        orders.append([row.index(place) for place in chosen] + [i for i, place in enumerate(row) if place < 0])
    order = torch.tensor(orders, device=start.device)
    return Pivots(pivots.places.gather(1, order), pivots.real.gather(1, order))


@dataclass
class Dart(LLMPruner):
    """Keep the tokens least like a few pivots, four visual and four text ones, at ``layer``, the authors' K = 2 of 32.

    The result depends on the order in which pivots choose. The paper names none: here the visual pivots come first,
    each kind by falling key norm. ``variant: release`` takes the released order, that of a Python set of their places
    in the prompt. ``counting: authors`` counts as the authors do, whose 64, 128, 192 are floor(n / 8) tokens per pivot
    with the four visual pivots on top (68, 132, 196 kept), the layers before not counted; ``entering`` meets the
    budget.
    """

    visual_pivots: int = 4
    text_pivots: int = 4
    variant: Literal["paper", "release"] = "paper"
    counting: Literal["entering", "authors"] = "entering"

    name: ClassVar[str] = "dart"
    needs: ClassVar[Set[str]] = {"previous"}
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="arXiv 2502.11494",
        source="ZichenWen1/DART (Chenfei-Liao/VTC-Bench@983e443)",
        signal="dissimilarity to pivots with large keys",
        text_aware=True,
        counts="ours: solved for the average; theirs by `counting=authors`",
        nominal=Schedule(576, ((2, 68),)),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.visual_pivots >= 1, "visual_pivots", "1 or more", self.visual_pivots)
        require(self.text_pivots >= 0, "text_pivots", "0 or more", self.text_pivots)

    def schedule(self, n_tokens: int, layers: int) -> Schedule:
        if self.counting == "entering" or self.budget.full:
            return super().schedule(n_tokens, layers)
        pivots = self.visual_pivots + self.text_pivots
        chosen = pivots * (int(self.budget.tokens(n_tokens)) // pivots)
        return staged(n_tokens, [self.layer], [self.visual_pivots + chosen], layers)

    def pivots(self, norm: Tensor, visual: Tensor, question: Tensor, keep: Tensor) -> tuple[Pivots, Pivots]:
        """The visual pivots, largest key first, and all pivots in the order in which they choose.

        ``norm`` (B, L) are the L1 norms of keys, ``visual`` and ``question`` (B, L) mark the tokens of an image and of
        the question. Of ``keep`` (B,) tokens no more are visual pivots.
        """
        own = largest(norm, visual, keep.clamp(max=self.visual_pivots), self.visual_pivots)
        text = largest(norm, question, question.sum(1), self.text_pivots)
        return own, Pivots(*(torch.cat(parts, 1) for parts in zip(own, text, strict=True)))

    def prune_llm(self, context: LLMContext, keep: Tensor) -> Tensor:
        norm = context.previous.keys().float().norm(p=1, dim=-1)
        states, question = context.final_norm(context.hidden), context.question
        kept = torch.zeros_like(context.valid)
        for visual, wanted in zip(context.member, keep.T, strict=True):
            count = wanted.minimum(visual.sum(1))
            own, every = self.pivots(norm, visual, question, count)
            if self.variant == "release":
                every = in_order_of_a_set(every, context.valid.logical_not().sum(1))
            kept |= choose_unlike(states, visual, own, every, count)
        return kept

    def metric_flops(self, n_tokens: int, shape: ModelShape) -> float:
        """Key norms and one cosine per pivot and token."""
        pivots = self.visual_pivots + self.text_pivots
        return norm_flops(n_tokens, shape.kv_heads * shape.head_dim) + pivots * norm_flops(n_tokens, shape.hidden)
