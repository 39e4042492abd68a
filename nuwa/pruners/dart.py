"""DART (arXiv 2502.11494; code ZichenWen1/DART as vendored in Chenfei-Liao/VTC-Bench, commit 983e443): drop duplicates.

A few pivots, the visual and text tokens with the largest keys, each choose the visual tokens least like themselves. No
attention is computed.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from nuwa.pruners.base import LLMContext, LLMPruner, MethodInfo, require
from nuwa.pruning.budget import ModelShape, Schedule, norm_flops, staged
from nuwa.pruning.selection import strongest


def choose_unlike(states: Tensor, visual: Tensor, own: list[int], pivots: list[int], keep: int) -> list[int]:
    """``keep`` places: the visual pivots ``own``, and what all ``pivots`` choose, in turn, as least similar to them.

    ``states`` (L, D) are normed, ``visual`` (N,) are the places of the image's tokens. Pivots choose equal numbers of
    tokens, the first ones one more where that does not divide.
    """
    direction = functional.normalize(states.float(), dim=-1)
    free = torch.zeros(len(states), dtype=torch.bool, device=states.device)
    free[visual] = True
    free[own] = False
    chosen, rest = list(own), keep - len(own)
    for turn, pivot in enumerate(pivots):
        take = rest // len(pivots) + (turn < rest % len(pivots))
        similarity = (direction @ direction[pivot]).masked_fill(~free, float("inf"))
        best = similarity.argsort(stable=True)[:take]
        free[best] = False
        chosen += best.tolist()
    return chosen


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

    def pivots(
        self, norm: Tensor, visual: Tensor, question: Tensor, start: int, keep: int
    ) -> tuple[list[int], list[int]]:
        """The places of the visual pivots, largest key first, and of all pivots in the order in which they choose.

        ``norm`` (L,) are the L1 norms of a row's keys, ``visual`` and ``question`` the places of the image's and the
        question's tokens, ``start`` is the place at which the prompt begins, behind its padding. Of ``keep`` tokens no
        more are visual pivots.
        """
        own = visual[strongest(norm[visual], min(self.visual_pivots, keep))].tolist()
        every = own + question[strongest(norm[question], self.text_pivots)].tolist()
        if self.variant == "release":
            every = [start + place for place in {pivot - start for pivot in every}]
        return own, every

    def prune_llm(self, context: LLMContext, keep: Tensor) -> Tensor:
        norm = context.previous.keys().float().norm(p=1, dim=-1)
        states = context.final_norm(context.hidden)
        kept = torch.zeros_like(context.valid)
        for row, ordinal, visual in context.each_image():
            count = min(int(keep[row, ordinal]), len(visual))
            question, start = context.question[row].nonzero()[:, 0], int(context.valid[row].logical_not().sum())
            own, every = self.pivots(norm[row], visual, question, start, count)
            kept[row, choose_unlike(states[row], visual, own, every, count)] = True
        return kept

    def metric_flops(self, n_tokens: int, shape: ModelShape) -> float:
        """Key norms and one cosine per pivot and token."""
        pivots = self.visual_pivots + self.text_pivots
        return norm_flops(n_tokens, shape.kv_heads * shape.head_dim) + pivots * norm_flops(n_tokens, shape.hidden)
