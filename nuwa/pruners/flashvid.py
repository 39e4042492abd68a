"""FlashVID (ICLR 2026, arXiv 2602.08024; code Fanziyang-v/FlashVID, commit 1d37422): the telling tokens, and trees.

A video is cut where its frames change. Of each frame the tokens stay that are attended to and unlike each other (ADTS);
the others form trees through the frames of a segment (TSTM), whose means are clustered frame by frame. Deep in the LLM
the last prompt token chooses once more among what is left.

Shape letters: F frames of N tokens, A tokens that ADTS chooses of a frame at most.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from nuwa.pruners.base import LLMContext, MethodInfo, Tap, VisionContext, VisionDecision, require
from nuwa.pruners.divprune import nearest_similarity, similarity_to
from nuwa.pruners.videos import TwoStageVideo, VideoTokens, clusters_of_groups, first_of_frames, spaced
from nuwa.pruning.cuts import frame_similarity, segment_numbers
from nuwa.pruning.density import NEIGHBOURS, clusters_of_frames
from nuwa.pruning.flops import ModelShape, attention_score_flops, cosine_flops
from nuwa.pruning.merging import member_counts, merge_alike
from nuwa.pruning.trees import hang


def event_relevance(features: Tensor, segment: Tensor) -> Tensor:
    """Dot product of each token (F, N, D) with its segment's mean token: (F, N) float32.

    The authors' mean over products with every frame's mean; ``segment`` (F,) numbers the segments.
    """
    frames = features.float().mean(1)
    same = (segment[:, None] == segment).float()
    return (features.float() @ (same @ frames / same.sum(1, keepdim=True))[..., None])[..., 0]


def adts(features: Tensor, weight: Tensor, picks: int, again: bool = False) -> Tensor:
    """Indices (F, ``picks``) of tokens (F, N, D) in the order of picking, of all frames at once.

    Every pick is the token whose cosine distance to the nearest of those picked, times its own ``weight`` (F, N), is
    largest; for the first one, that to the nearest of all others. A token may be picked ``again``, as in the release,
    where weights are negative.
    """
    direction = functional.normalize(features.float(), dim=-1)
    order = [((1 - nearest_similarity(direction)) * weight).argmax(-1, keepdim=True)] if picks else []
    least = torch.full_like(weight, math.inf)
    while len(order) < picks:
        least = torch.minimum(least, (1 - similarity_to(direction, order[-1])) * weight)
        if not again:
            least = least.scatter(-1, order[-1], -math.inf)
        order.append(least.argmax(-1, keepdim=True))
    return torch.cat(order, -1) if order else weight.new_zeros(len(weight), 0, dtype=torch.long)


@dataclass
class FlashVID(TwoStageVideo):
    """Attention and diversity choose ``alpha`` of a frame's tokens, trees and clusters become the others.

    Frames that are less similar than ``cut_below`` end a segment, and there are ``segments`` or more. ADTS weighs a
    token by its received attention and, with ``relevance``, by its product with the segment's mean (the authors' v2; v1
    is without). None: as the authors on the model, 8 segments and v2, under M-RoPE (Qwen) 4 and v1. Tokens whose cosine
    is ``link_above`` or more form trees. From ``inner_layer`` (a fraction of the depth) on about ``inner_keep`` of the
    tokens stay, 1: all; the number that enters follows from the budget, in the authors' settings 1.25 of it (Qwen3:
    28/36 and 0.1). Where a budget of 0.8 or more would let more enter than there are, all enter, and the inner stage
    spends it (the release fails there).

    The paper's trees are plain means, the strongest links count where so many tokens linked that a budget could not be
    spent, and a frame's tokens go to clusters but for those that ADTS chose. The numbers of clusters add up to the
    budget. ``variant: release``: budgets of frames and clusters are rounded up; the root of a tree is divided by the
    number of its direct children alone, so that chains come out too long; a frame that is a segment of its own clusters
    all of its tokens, so that some appear twice (here the second one takes the place of a dropped token); ADTS may
    choose a token of negative weight twice.
    """

    alpha: float = 0.7
    cut_below: float = 0.9
    segments: int | None = None
    relevance: bool | None = None
    link_above: float = 0.8
    inner_layer: float = 20 / 28
    inner_keep: float = 0.3
    variant: Literal["paper", "release"] = "paper"

    name: ClassVar[str] = "flashvid"
    native_position: ClassVar[str] = "perc"
    taps: ClassVar[Mapping[str, Tap]] = {"attention": Tap("cls_attention")}
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="ICLR 2026",
        source="Fanziyang-v/FlashVID@1d37422",
        signal="received attention and variety, trees through time, attention of the last prompt token",
        merges=True,
        merging="trees through the frames of a segment, their means by clusters of a frame",
        text_aware=True,
        counts="authors': 1.25 times the budget enter, 0.3 of these stay from 20/28 of the depth on",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.alpha <= 1, "alpha", "in (0, 1]", self.alpha)
        require(self.segments is None or self.segments >= 1, "segments", "null or 1 or more", self.segments)

    @property
    def counts_by_itself(self) -> bool:
        return self.variant == "release"

    def prune_vision(self, context: VisionContext, keep: int) -> VisionDecision:
        return super(FlashVID, self.on(context.axes)).prune_vision(context, keep)

    def on(self, axes: int) -> FlashVID:
        """The method with what is None set as its authors did on models whose position ids have so many ``axes``."""
        segments, relevance = (8, True) if axes == 1 else (4, False)
        return replace(
            self,
            segments=segments if self.segments is None else self.segments,
            relevance=relevance if self.relevance is None else self.relevance,
        )

    def compress(self, features: Tensor, taps: Mapping[str, Tensor], keep: int) -> VideoTokens:
        assert self.segments is not None  # `on` has set it
        attention = taps["attention"].float().mean(0).view(features.shape[:2])
        segment = segment_numbers(frame_similarity(features.float().mean(1)), self.cut_below, self.segments)
        frames = len(features)
        budgets = [math.ceil(keep / frames)] * frames if self.variant == "release" else spaced(keep, frames)
        picks = [math.ceil(budget * self.alpha) for budget in budgets]
        return self.reduce(features, attention, segment, picks, [b - a for a, b in zip(picks, budgets, strict=True)])

    def reduce(
        self, features: Tensor, attention: Tensor, segment: Tensor, picks: Sequence[int], others: Sequence[int]
    ) -> VideoTokens:
        """`compress` with the tokens (F,) that ADTS chooses of every frame, and those that the rest becomes."""
        release, n_tokens, device = self.variant == "release", attention.shape[1], features.device
        weight = attention * event_relevance(features, segment) if self.relevance else attention
        order = adts(features, weight, max(picks), again=release)
        own, free = first_of_frames(order, picks, n_tokens)
        most = torch.tensor([n_tokens - a - b for a, b in zip(picks, others, strict=True)], device=device)
        root, share = hang(features, free, segment, most, self.link_above, release)

        whole, number = features.flatten(0, 1), torch.arange(len(root), device=device)
        trees = merge_alike(whole[None], number[None], root[None], shares=share[None])[0].view_as(features)
        alive = free & (root == number).view_as(free)
        if release:  # all tokens of a frame that is a segment of its own
            alive |= ((segment[:, None] == segment).sum(1) == 1)[:, None]
        segments, sizes = torch.stack([segment, alive.sum(1)]).tolist()
        counts = self._cluster_counts(segments, sizes, others)
        neighbours = [min(count, NEIGHBOURS) for count in counts]
        centres, slots = clusters_of_frames(trees, alive, sizes, counts, neighbours, first=not release)

        joined = slots[root]
        share = share / member_counts(slots, max(1, len(centres)))[joined]
        merged = merge_alike(whole[None], centres[None], joined[None], shares=share[None])[0]
        members = (joined + len(own)).masked_fill(joined < 0, -1).index_copy(0, own, number[: len(own)])
        cells, order = torch.cat([own, centres]).sort(stable=True)
        return VideoTokens(
            apart(cells, len(root)) if release else cells,
            torch.cat([whole[own], merged])[order],
            order.argsort()[members].masked_fill(members < 0, -1),
            shares=share.index_fill(0, own, 1),
            extras={"tree": root, "segment": segment.repeat_interleave(n_tokens), "salience": attention.flatten()},
        )

    def _cluster_counts(self, segments: Sequence[int], sizes: Sequence[int], others: Sequence[int]) -> list[int]:
        """How many clusters each frame's trees become, from the numbers (F,) of segments and of trees."""
        counts: list[int] = []
        for _, group in groupby(range(len(sizes)), key=segments.__getitem__):
            frames = list(group)
            mine, total = [sizes[frame] for frame in frames], sum(others[frame] for frame in frames)
            if self.variant == "paper":
                counts += clusters_of_groups(total, mine)
            else:
                counts += [min(size, math.ceil(size * (total / sum(mine)))) for size in mine]
        return counts

    def prune_llm(self, context: LLMContext, keep: Tensor) -> Tensor:
        return context.top_k(context.previous.last_attention(), keep)

    def metric_flops(self, n_tokens: int, shape: ModelShape) -> float:
        """Of one frame of ``n_tokens``: all pairs twice (diversity and clusters), and one attention row in the LLM."""
        row = attention_score_flops(1, self.schedule(n_tokens, shape.layers).vision, shape.hidden)
        return 2 * cosine_flops(n_tokens, shape.hidden) + row * self.prunes_llm


def apart(cells: Tensor, n_tokens: int) -> Tensor:
    """Ascending ``cells`` (K,) of ``n_tokens`` with every repetition at the nearest number that nobody has.

    >>> apart(torch.tensor([0, 3, 3, 4]), 6).tolist()
    [0, 3, 2, 4]
    """
    named = cells.tolist()
    free, seen = set(range(n_tokens)) - set(named), set[int]()
    for place, cell in enumerate(named):
        if cell in seen:
            named[place] = min(free, key=lambda number: (abs(number - cell), number))
            free.discard(named[place])
        seen.add(cell)
    return cells.new_tensor(named)
