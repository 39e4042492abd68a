"""FastVID (NeurIPS 2025, arXiv 2503.11187; code LunarShen/FastVID, commit a40a109): salient tokens, and merged anchors.

A video is cut where its frames change. Of every frame the most attended tokens stay; of every few frames those among
the others that are density peaks stay as anchors, and the rest of the segment merges into the anchors it resembles.

Shape letters: F frames of N tokens, K kept tokens, C anchors of a frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from nuwa.pruners.base import MethodInfo, Tap, require
from nuwa.pruners.videos import VideoPruner, VideoTokens, first_of_frames, spaced
from nuwa.pruning.cuts import frame_similarity, segment_numbers
from nuwa.pruning.density import distances, peak_scores
from nuwa.pruning.flops import ModelShape, cosine_flops
from nuwa.pruning.merging import soft_members
from nuwa.pruning.selection import strongest
from nuwa.pruning.tiling import even_shares

DENSITY_NEIGHBOURS = 4
"""The authors' neighbours of a density."""
Quotas = tuple[list[int], list[int]]
"""Salient tokens of each frame, and anchors."""


def anchor_frames(frames: int, every: int) -> list[int]:
    """The frames of a segment that have anchors: the last one, and every so many before it, backwards.

    >>> anchor_frames(6, 4)
    [5, 1]
    """
    return list(range(frames - 1, -1, -every))


def segment_quotas(total: int, frames: int, cells: int, context: float, every: int) -> Quotas:
    """Divide the ``total`` of a segment of ``frames`` of ``cells`` tokens; ``context`` of it become anchors.

    As in the authors' code for LLaVA-Video; what an anchor frame has no room for goes to salient tokens.

    >>> segment_quotas(20, 3, 100, 0.4, every=4), segment_quotas(15, 2, 8, 0.6, every=4)
    (([4, 4, 4], [0, 0, 8]), ([7, 3], [0, 5]))
    """
    anchors, chosen = int(total * context), anchor_frames(frames, every)
    salient, merged = even_shares(total - anchors, [cells] * frames), [0] * frames
    for frame, share in zip(chosen, even_shares(anchors, [total] * len(chosen)), strict=True):
        merged[frame] = min(share, cells - salient[frame])
    room = [cells - a - b for a, b in zip(salient, merged, strict=True)]
    more = even_shares(anchors - sum(merged), room)
    return [a + b for a, b in zip(salient, more, strict=True)], merged


def onevision_quotas(each: int, frames: int, cells: int, context: float, every: int) -> Quotas:
    """Of a segment whose frames keep ``each`` tokens, as in the authors' code for OneVision: remainders are lost."""
    anchors, chosen = int(each * context), anchor_frames(frames, every)
    salient, share = each - anchors, anchors * frames // len(chosen)
    merged = [min(share, cells - salient) if frame in chosen else 0 for frame in range(frames)]
    return [salient] * frames, merged


def qwen_quotas(total: int, runs: Sequence[int], cells: int, context: float, every: int) -> Quotas:
    """Of a segment that consists of ``runs`` of near-identical frames, as in the authors' code for Qwen2.5-VL.

    Only the last frame of a run keeps any, and anchors are half of a frame at most; what is over is lost.
    """
    anchors = max(int(total * context), 1)
    shares, chosen = even_shares(total - anchors, [total] * len(runs)), anchor_frames(len(runs), every)
    few = dict(zip(chosen, even_shares(anchors, [total] * len(chosen)), strict=True))
    salient, merged = [], []
    for run, length in enumerate(runs):
        own = few.get(run, 0) if sum(runs) == 1 else min(few.get(run, 0), cells // 2)
        merged += [0] * (length - 1) + [own]
        salient += [0] * (length - 1) + [min(shares[run], cells - own)]
    return salient, merged


@dataclass
class FastVID(VideoPruner):
    """The most attended tokens of every frame, and anchors of a segment that others merge into.

    Frames that are less similar than ``cut_below`` end a segment, and there are ``segments`` or more. A share
    ``context`` of the tokens are anchors, which stand in the last of ``every`` four frames of a segment; an anchor
    keeps ``own`` of itself, or more where few merge into it.

    The authors read attention and frames off the pooling head of SigLIP, which no LLaVA or Qwen checkpoint holds: here
    the attention that a token receives takes its place, and the mean of a frame's tokens (as theirs for Qwen2.5-VL).

    ``variant: paper`` divides as their code for LLaVA-Video does, and spends the budget. ``onevision`` loses
    remainders, and anchors merge into anchors, themselves included; ``qwen`` gives tokens to the last of several frames
    only that are more similar than ``same_from`` (the authors cut below 0.84 there).
    """

    segments: int = 8
    cut_below: float = 0.9
    context: float = 0.4
    every: int = 4
    own: float = 0.6
    same_from: float = 0.95
    variant: Literal["paper", "onevision", "qwen"] = "paper"

    name: ClassVar[str] = "fastvid"
    native_position: ClassVar[str] = "pesp"
    taps: ClassVar[Mapping[str, Tap]] = {"attention": Tap("cls_attention")}
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="arXiv 2503.11187",
        source="LunarShen/FastVID@a40a109",
        signal="received attention and frame means (theirs: SigLIP's pooling head), density peaks",
        merges=True,
        merging="the rest of a segment into its anchors",
        counts="authors'",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("context", "own"):
            require(0 <= getattr(self, key) <= 1, key, "in [0, 1]", getattr(self, key))
        for key in ("segments", "every"):
            require(getattr(self, key) >= 1, key, "1 or more", getattr(self, key))

    @property
    def counts_by_itself(self) -> bool:
        return self.variant != "paper"

    def compress(self, features: Tensor, taps: Mapping[str, Tensor], keep: int) -> VideoTokens:
        attention = taps["attention"].float().mean(0).view(features.shape[:2])
        return self.reduce(features, attention, features.float().mean(1), keep)

    def reduce(self, features: Tensor, attention: Tensor, frames: Tensor, keep: int) -> VideoTokens:
        """`compress` with a score (F, N) of tokens, and what frames (F, D) are compared by."""
        similarity, n_tokens, whole = frame_similarity(frames).cpu(), features.shape[1], features.flatten(0, 1)
        segment = segment_numbers(similarity, self.cut_below, self.segments)
        salient, merged = self._quotas(segment.tolist(), similarity.tolist(), n_tokens, keep)
        own, free = first_of_frames(strongest(attention, max(salient)), salient, n_tokens)
        chosen = [frame for frame, count in enumerate(merged) if count]
        peaks = self._peaks(features[chosen], free[chosen], max([*merged, 1]))
        cells = torch.cat(
            [own, *(row[: merged[frame]] + frame * n_tokens for frame, row in zip(chosen, peaks, strict=True))]
        )
        weights = torch.zeros(len(cells), len(whole), device=whole.device)
        weights[torch.arange(len(own), device=own.device), own] = 1
        done = len(own)
        for frame in chosen:
            inside = (segment == segment[frame]).nonzero()[:, 0]
            block = slice(int(inside[0]) * n_tokens, (int(inside[-1]) + 1) * n_tokens)
            mine = slice(done, done + merged[frame])
            targets, others = cells[mine] - block.start, free.flatten()[block]
            if self.variant != "onevision":
                others = others.index_fill(0, targets, False)
            weights[mine, block] = anchor_weights(whole[block], targets, others, self.own)
            done = mine.stop
        cells, order = cells.sort()
        named = soft_members(weights[order][None], cells[None])
        shown = {"segment": segment.to(cells.device).repeat_interleave(n_tokens), "salience": attention.flatten()}
        tokens = (weights[order] @ whole.float()).to(whole.dtype)
        return VideoTokens(cells, tokens, **{name: value[0] for name, value in named.items()}, extras=shown)

    def _quotas(self, segments: Sequence[int], similarity: Sequence[float], cells: int, keep: int) -> Quotas:
        """The quotas of all frames, from their segments (F,) and similarities (F - 1,)."""
        each, salient, merged = max(1, keep // len(segments)), list[int](), list[int]()
        budgets = spaced(keep, len(segments))
        for _, group in groupby(range(len(segments)), key=segments.__getitem__):
            frames = list(group)
            if self.variant == "paper":
                total = sum(budgets[frame] for frame in frames)
                mine = segment_quotas(total, len(frames), cells, self.context, self.every)
            elif self.variant == "onevision":
                mine = onevision_quotas(each, len(frames), cells, self.context, self.every)
            else:
                ends = [frame for frame in frames[:-1] if similarity[frame] < self.same_from] + frames[-1:]
                runs = [end - start for start, end in zip([frames[0] - 1, *ends], ends, strict=False)]
                mine = qwen_quotas(each * len(frames), runs, cells, self.context, self.every)
            salient, merged = salient + mine[0], merged + mine[1]
        return salient, merged

    def _peaks(self, features: Tensor, free: Tensor, count: int) -> Tensor:
        """The ``count`` highest density peaks among the ``free`` (G, N) tokens of frames (G, N, D): (G, count)."""
        if not len(features):
            return torch.empty(0, count, dtype=torch.long, device=features.device)
        scores = peak_scores(distances(features, free), free, [DENSITY_NEIGHBOURS] * len(features))
        return strongest(scores, count)

    def metric_flops(self, n_tokens: int, shape: ModelShape) -> float:
        """Of one frame of ``n_tokens``: all pairs for densities, and anchors against all."""
        anchors = self.context * self.schedule(n_tokens, shape.layers).vision
        return cosine_flops(n_tokens, shape.hidden) + anchors * n_tokens * shape.hidden


def anchor_weights(block: Tensor, anchors: Tensor, others: Tensor, own: float) -> Tensor:
    """What ``anchors`` (C,) become of tokens (M, D): weights (C, M).

    Each of the ``others`` (M,) goes to the anchor that it resembles most. An anchor is ``own`` of itself, or one over
    all that it stands for if that is more, and the rest is the mean of those that came.
    """
    direction = functional.normalize(block.float(), dim=-1)
    nearest = (direction @ direction[anchors].T).argmax(1)
    came = torch.zeros(len(anchors), len(block), device=block.device).scatter(0, nearest[None], others.float()[None])
    count = came.sum(1, keepdim=True)
    share = (1 / (count + 1)).clamp(min=own)
    weights = (1 - share) * came / count.clamp(min=1)
    return weights.scatter_add(1, anchors[:, None], share)
