"""HoliTom (NeurIPS 2025, arXiv 2505.21334; code cokeshao/HoliTom, commit e9b2972f): what stands still, is merged.

A video is cut into segments so that as much as possible stands still in them. What does is averaged over a segment's
frames and clustered; of what moves the tokens stay that the vision tower attends to. Inside the LLM the last prompt
token chooses once more, and what it leaves goes into the tokens most like it.

Shape letters: F frames of N tokens, S segments, D width; R rows of images, n tokens, K kept ones of a row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from nuwa.pruners.base import LLMContext, LLMDecision, MethodInfo, Tap, VisionDecision, require
from nuwa.pruners.videos import TwoStageVideo, VideoTokens, together
from nuwa.pruning.cuts import Segments, best_segments, merged_tokens, still_runs
from nuwa.pruning.density import NEIGHBOURS, density_clusters
from nuwa.pruning.flops import ModelShape, attention_score_flops
from nuwa.pruning.masks import gather_tokens
from nuwa.pruning.merging import merge_alike
from nuwa.pruning.schedules import share_out
from nuwa.pruning.selection import strongest, top_tokens

OWN = 0.6
"""The share of its centre in a released cluster."""


def released_quotas(
    still: Sequence[int], moving: Sequence[int], ratio: float, total: int
) -> tuple[list[int], list[int]]:
    """Clusters of each segment and tokens of each frame, where ``ratio`` of ``total`` is to stay: as released.

    The ratio is one of what is left of the video when all that stands still is averaged, and at most 1; tokens of
    frames are rounded up.
    """
    share = min(ratio / ((sum(still) + sum(moving)) / total), 1)
    return [round(count * share) for count in still], [math.ceil(count * share) for count in moving]


def centre_shares(into: Tensor, n_tokens: int) -> Tensor:
    """What each token counts in the sum ``into`` (M,) which it went: (M,); `OWN` in all of the centre's cell.

    That is all there is where no other cell joined.
    """
    there, cell = into >= 0, torch.arange(len(into), device=into.device) % n_tokens
    own, target = into % n_tokens == cell, into.clamp(min=0)
    centre, others = (
        torch.zeros(len(into), device=into.device).scatter_add(0, target, (kind & there).float())[target]
        for kind in (own, ~own)
    )
    share = torch.where(own, torch.where(others > 0, OWN, 1) / centre, (1 - OWN) / others)
    return share.where(there, 0)


def cluster_homes(features: Tensor, still: Tensor, segments: Segments, clusters: Sequence[int]) -> Tensor:
    """The token that each ``still`` cell (S, N) of segments goes into, of the first frame; -1 for none: (S, N)."""
    home = torch.full(still.shape, -1, device=still.device)
    some = [number for number, count in enumerate(clusters) if count]
    if some:
        spans = [segments[number] for number in some]
        means = torch.stack([features[start : end + 1].float().mean(0) for start, end in spans])
        counts = [clusters[number] for number in some]
        centres, cluster = density_clusters(means, counts, [min(NEIGHBOURS, count) for count in counts], still[some])
        first = torch.tensor([[start] for start, _ in spans], device=still.device) * features.shape[1]
        home[some] = (first + centres.gather(1, cluster.clamp(min=0))).where(cluster >= 0, -1)
    return home


def reduce_segments(
    features: Tensor,
    attention: Tensor,
    still: Tensor,
    segments: Segments,
    clusters: Sequence[int],
    tokens: Sequence[int],
    release: bool,
) -> VideoTokens:
    """Merge what is ``still`` (S, N) in segments to their ``clusters``, keep the best other ``tokens`` of each frame.

    Features (F, N, D), attention (F, N).
    """
    frames, n_tokens = features.shape[:2]
    device, lengths = features.device, torch.tensor([end - start + 1 for start, end in segments])
    segment = torch.arange(len(segments)).repeat_interleave(lengths).to(device)
    home = cluster_homes(features, still, segments, clusters)
    number = torch.arange(frames * n_tokens, device=device).view(frames, n_tokens)
    order = strongest(attention.masked_fill(still[segment], -math.inf), n_tokens)
    best = torch.arange(n_tokens, device=device) < torch.tensor(tokens, device=device)[:, None]
    chosen = torch.zeros_like(best).scatter(1, order, best)
    into = torch.where(chosen, number, home[segment]).flatten()
    cells = (into != number.flatten()).byte().argsort(stable=True)[: sum(clusters) + sum(tokens)]
    if release:  # a segment's clusters before its frames
        moving = chosen.flatten()[cells]
        cells = cells[(2 * segment[cells // n_tokens] + moving).argsort(stable=True)]
    place = torch.full_like(into, -1).index_copy(0, cells, torch.arange(len(cells), device=device))
    members = place[into.clamp(min=0)].where(into >= 0, -1)
    shares = centre_shares(into, n_tokens) if release else None
    parts = (None if part is None else part[None] for part in (members, None, shares))
    merged = merge_alike(features.flatten(0, 1)[None], cells[None], *parts)[0]
    extras = {"segment": segment.repeat_interleave(n_tokens), "salience": attention.flatten()}
    return VideoTokens(cells, merged, members, shares, extras=extras)


def join_dropped(states: Tensor, kept: Tensor) -> Tensor:
    """The kept token (R, K) that each of ``states`` (R, n, D) goes into, its own or the most similar: (R, n) places."""
    direction = functional.normalize(states.float(), dim=-1)
    slot = (direction @ gather_tokens(direction, kept).mT).argmax(-1)
    return slot.scatter(1, kept, torch.arange(kept.shape[1], device=kept.device).expand_as(kept))


def one_by_one(slot: Tensor, kept: Tensor) -> Tensor:
    """What each token counts if the dropped ones are taken in in order, each halved with what is there: (R, n)."""
    stays = torch.zeros_like(slot, dtype=torch.bool).scatter(1, kept, True)
    joins = functional.one_hot(slot, kept.shape[1]) * ~stays[..., None]
    later = (joins.sum(1, keepdim=True) - joins.cumsum(1)).gather(2, slot[..., None])[..., 0]
    return 0.5 ** torch.where(stays, joins.sum(1).gather(1, slot), later + 1)


@dataclass
class HoliTom(TwoStageVideo):
    """Average what stands still, cluster it, keep the rest by attention, and merge once more inside the LLM.

    A cell stands still in a segment where its cosine with the frame before is above ``threshold`` throughout. From
    ``inner_layer`` (a fraction of the depth) on a share ``inner_keep`` of the tokens stays, 1: all; the number that
    enters follows from the budget. A cluster stands at its centre, in the first frame of its segment.

    The numbers of clusters and of frames' tokens add up to the budget, except that a still video has fewer tokens left
    than it may. Clusters and what goes into a token inside the LLM are plain means. ``variant: release``: rounded each
    by itself, so that more tokens stay than asked for; 0.6 of a cluster is its centre; a segment's clusters come before
    its frames; inside the LLM tokens are halved with one after another, so that the last weighs most.
    """

    threshold: float = 0.8
    inner_layer: float = 18 / 28
    inner_keep: float = 0.5
    variant: Literal["paper", "release"] = "paper"

    name: ClassVar[str] = "holitom"
    native_position: ClassVar[str] = "perc"
    counts_by_itself: ClassVar[bool] = True
    taps: ClassVar[Mapping[str, Tap]] = {"attention": Tap("cls_attention")}
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="arXiv 2505.21334",
        source="cokeshao/HoliTom@e9b2972f",
        signal="what stands still, received attention, attention of the last prompt token",
        merges=True,
        merging="what stands still, over a segment, then by clusters; inside the LLM what is dropped",
        text_aware=True,
        counts="authors': half of what enters stays from 18/28 of the depth on",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(-1 <= self.threshold <= 1, "threshold", "a cosine in [-1, 1]", self.threshold)

    def decide(self, features: Tensor, taps: Mapping[str, Tensor], keep: int) -> VisionDecision:
        """For all videos at once as far as the device is read."""
        runs = still_runs(features, self.threshold)
        attention = taps["attention"].float().mean(1).view(runs.shape)
        parts = zip(features, attention, runs, merged_tokens(runs), strict=True)
        return together([self.reduce(*part, keep) for part in parts])

    def reduce(
        self, features: Tensor, attention: Tensor, runs: Tensor, gains: Sequence[Sequence[int]], keep: int
    ) -> VideoTokens:
        """What is left of one video: features (F, N, D), attention and ``runs`` (F, N), ``gains`` of its segments."""
        (frames, n_tokens), segments, release = runs.shape, best_segments(gains), self.variant == "release"
        back = [end - start for start, end in segments]
        count = [gains[end][n] // max(n, 1) for (_, end), n in zip(segments, back, strict=True)]
        moving = [n_tokens - still for still, n in zip(count, back, strict=True) for _ in range(n + 1)]
        shares = share_out(min(keep, sum(count) + sum(moving)), [*count, *moving])
        quotas = shares[: len(count)], shares[len(count) :]
        if release:
            rounded = released_quotas(count, moving, keep / (frames * n_tokens), frames * n_tokens)
            quotas = rounded if any(map(sum, rounded)) else quotas
        length = torch.tensor(back, device=features.device)[:, None]
        still = (runs[[end for _, end in segments]] >= length) & (length > 0)
        return reduce_segments(features, attention, still, segments, *quotas, release=release)

    def prune_llm(self, context: LLMContext, keep: Tensor) -> LLMDecision:
        context.scores["score"] = context.previous.last_attention()
        score, hidden = context.scores["score"].flatten(), context.hidden.flatten(0, 1)
        shape, members = context.image.shape, torch.full_like(context.image, -1).flatten()
        stays = torch.zeros_like(members, dtype=torch.bool)
        for _, places, count in context.images_alike(keep):
            states, kept = hidden[places], top_tokens(score[places], count)
            slot = join_dropped(states, kept)
            shares = one_by_one(slot, kept) if self.variant == "release" else None
            merged = merge_alike(states, kept, slot, shares=shares)
            target = places.gather(1, kept)
            hidden = hidden.index_copy(0, target.flatten(), merged.flatten(0, 1))
            stays = stays.index_fill(0, target.flatten(), True)
            members = members.index_copy(0, places.flatten(), (target.gather(1, slot) % shape[1]).flatten())
        return LLMDecision(stays.view(shape), hidden.view_as(context.hidden), members=members.view(shape))

    def metric_flops(self, n_tokens: int, shape: ModelShape) -> float:
        """A row of attention in the tower and one in the LLM, a product for each token, dropped ones against kept."""
        schedule = self.schedule(n_tokens, shape.layers)
        kept = schedule.per_layer(shape.layers)[-1]
        inside = attention_score_flops(1, schedule.vision, shape.hidden)
        inside += attention_score_flops(kept, schedule.vision - kept, shape.hidden)
        tower = attention_score_flops(1, n_tokens, shape.vision_hidden)
        return tower + attention_score_flops(1, n_tokens, shape.hidden) + inside
