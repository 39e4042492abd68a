"""PruneVid (ACL Findings 2025, arXiv 2412.16117; code Visual-AI/PruneVid, commit b12600c): what stands still, once.

A video is cut into stretches of alike frames. In each, the cells that hardly change become one token for all of its
frames, and the others stay frame by frame; both are clustered. Inside the LLM, those tokens of every such group stay
that the question attends to.

Shape letters: F frames of N tokens, S segments, G groups of tokens (of every segment the still ones, then those of each
of its frames).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from nuwa.pruners.base import LLMContext, MethodInfo, require
from nuwa.pruners.videos import TwoStageVideo, VideoTokens, clusters_of_groups
from nuwa.pruning.budget import BudgetError, Dial
from nuwa.pruning.density import NEIGHBOURS, clusters_of_frames, density_clusters
from nuwa.pruning.flops import ModelShape, attention_score_flops, cosine_flops
from nuwa.pruning.merging import member_counts, merge_alike
from nuwa.pruning.schedules import Schedule, layer_at
from nuwa.pruning.selection import top_of_each_group

UNCLUSTERED = 14
"""The size up to which groups of the authors are not clustered."""


def contiguous(labels: Sequence[int]) -> list[int]:
    """The number of each frame's segment (F,), from the cluster of each.

    Of a cluster its longest runs stay, if they are longer than a frame. What lies between goes to the longer of its
    neighbours, the left one of equals, and neighbours of one cluster are one segment.

    >>> contiguous([0, 0, 1, 0, 2, 2, 2, 1])
    [0, 0, 1, 1, 1, 1, 1, 1]
    """
    runs = [(label, len(list(run))) for label, run in groupby(labels)]
    longest = {label: max(length for other, length in runs if other == label) for label in labels}
    frames = [label if 1 < length == longest[label] else -1 for label, length in runs for _ in range(length)]
    while -1 in frames:
        start = frames.index(-1)
        end = next((at for at in range(start, len(frames)) if frames[at] != -1), len(frames))
        left = len(list(next(groupby(frames[:start][::-1]), (0, []))[1]))
        right = len(list(next(groupby(frames[end:]), (0, []))[1]))
        label = frames[end] if right > left else frames[start - 1] if left else 0
        frames[start:end] = [label] * (end - start)
    return [number for number, (_, run) in enumerate(groupby(frames)) for _ in run]


def still_cells(features: Tensor, segment: Tensor, lengths: Tensor, above: float) -> Tensor:
    """The cells (S, N) whose tokens (F, N, D) are alike in all frames of a segment: mean cosine of pairs ``above``.

    ``lengths`` (S,) are the frames of each segment. In one of a single frame there is nothing to compare, and no cell
    is still.
    """
    direction = functional.normalize(features.float(), dim=-1)
    whole = direction.new_zeros(len(lengths), *direction.shape[1:]).index_add(0, segment, direction)
    frames = lengths[:, None]
    mean = (whole.square().sum(-1) - frames) / (frames * (frames - 1)).clamp(min=1)
    return (mean > above) & (frames > 1)


@dataclass
class PruneVid(TwoStageVideo):
    """Average what stands still, cluster what is left, and let the question choose inside the LLM.

    Frames are clustered into a share ``scenes`` of their number, which become segments. A cell is still where the mean
    cosine of its tokens is above ``still_above``. From ``inner_layer`` on, a fraction of the depth, ``inner_keep`` of
    every group stay, chosen by the largest attention that any token of the question pays in any head.

    Published is ``adaptive``: groups of more than 14 tokens become ``cluster_ratio`` as many, and the video decides on
    its number; it needs budget=full, or a run that finds the ratio that spends a budget on average. Otherwise every
    video meets its budget: groups, small ones too, share the tokens out by their sizes, at both stages. (A video that
    stands still may have fewer left than that.)

    The number of tokens that a cluster of still ones stands for is that of all frames. Tokens reach the LLM segment by
    segment, still ones first. (The authors keep ids at the second stage and drop the tokens from the caches of earlier
    layers, too.)
    """

    scenes: float = 0.25
    still_above: float = 0.8
    inner_layer: float = 11 / 32
    inner_keep: float = 0.4
    adaptive: bool = False
    cluster_ratio: float = 0.5

    name: ClassVar[str] = "prunevid"
    native_position: ClassVar[str] = "perc"
    counts_by_itself: ClassVar[bool] = True
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="arXiv 2412.16117",
        source="Visual-AI/PruneVid@b12600c",
        signal="change over time, density peaks, attention of the question",
        merges=True,
        merging="what stands still, over a segment; then by clusters",
        text_aware=True,
        counts="ours: clusters share the budget; theirs by `adaptive=true`",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("scenes", "cluster_ratio"):
            require(0 < getattr(self, key) <= 1, key, "in (0, 1]", getattr(self, key))

    @property
    def dial(self) -> Dial | None:
        return Dial("cluster_ratio", fewest=1e-6, most=1.0) if self.adaptive else None

    def schedule(self, n_tokens: int, layers: int) -> Schedule:
        """One or two stages; under ``adaptive``, which refuses a budget, upper bounds."""
        if not self.adaptive:
            return super().schedule(n_tokens, layers)
        if not self.budget.full:
            raise BudgetError(f"pruner {self.name}: with pruner.adaptive=true the video decides; use budget=full")
        return Schedule(n_tokens, ((layer_at(self.inner_layer, layers), n_tokens),) if self.prunes_llm else ())

    def compress(self, features: Tensor, taps: Mapping[str, Tensor], keep: int) -> VideoTokens:
        (frames, n_tokens), device, whole = features.shape[:2], features.device, features.float()
        scenes = [max(1, int(frames * self.scenes))]
        segments = contiguous(density_clusters(whole.mean(1)[None], scenes, [NEIGHBOURS])[1][0].tolist())
        segment, count = torch.tensor(segments, device=device), segments[-1] + 1
        lengths = torch.tensor([segments.count(number) for number in range(count)], device=device)
        still = still_cells(whole, segment, lengths, self.still_above)
        means = whole.new_zeros(count, *whole.shape[1:]).index_add(0, segment, whole) / lengths[:, None, None]

        # groups, each a row: a segment's still cells, in its first frame, then the other cells of its frames
        first = torch.tensor([segments.index(number) for number in range(count)], device=device)
        frame = torch.cat([first, torch.arange(frames, device=device)])
        row = torch.argsort(2 * frame + (torch.arange(len(frame), device=device) >= count))
        alive = torch.cat([still, ~still[segment]])[row]
        sizes = alive.sum(1).tolist()
        counts = self._clusters(sizes, keep)
        centres, slots = clusters_of_frames(
            torch.cat([means, whole])[row], alive, sizes, counts, [NEIGHBOURS] * len(row)
        )

        # clusters by their peaks, tokens of a group that is whole as they stand
        group, place = centres // n_tokens, centres % n_tokens
        unclustered = torch.tensor(counts, device=device) == alive.sum(1)
        rank = torch.where(unclustered[group], place, torch.arange(len(centres), device=device))
        order = (group * len(whole) * n_tokens + rank).argsort()
        number = row.argsort()
        number = torch.where(still[segment], number[segment][:, None], number[count:, None])
        slot = slots.view(alive.shape).gather(0, number)
        share = 1 / member_counts(slots, max(1, len(centres)))[slot] / torch.where(still, lengths[:, None], 1)[segment]
        members = order.argsort()[slot].masked_fill(slot < 0, -1).flatten()
        cells = (frame[row][group] * n_tokens + place)[order]
        tokens = merge_alike(features.flatten(0, 1)[None], cells[None], members[None], shares=share.flatten()[None])[0]
        shown = {"group": number.flatten(), "segment": segment.repeat_interleave(n_tokens)}
        return VideoTokens(cells, tokens, members, shares=share.flatten(), extras=shown)

    def _clusters(self, sizes: Sequence[int], keep: int) -> list[int]:
        """Clusters of groups of these sizes."""
        if not self.adaptive:
            return clusters_of_groups(keep, sizes)
        return [size if size <= UNCLUSTERED else max(1, int(size * self.cluster_ratio)) for size in sizes]

    def prune_llm(self, context: LLMContext, keep: Tensor) -> Tensor:
        queries = context.question.any(0).nonzero()[:, 0]
        silent = ~context.question[:, queries]
        # a place that asks in one row can be padding in another, whose attention is not a number there
        score = context.previous.attention(queries).masked_fill(silent[:, None, :, None], 0).amax((1, 2))
        context.scores["score"] = score
        stays, wanted = torch.zeros_like(context.valid), keep.tolist()
        for row, ordinal, mine in context.each_image():
            group = self._groups(context, row, ordinal)[context.token[row, mine]]
            sizes = group.bincount().tolist()
            counts = [int(size * self.inner_keep) for size in sizes]
            if not self.adaptive or not any(counts):
                counts = clusters_of_groups(1 if self.adaptive else wanted[row][ordinal], sizes)
            stays[row, mine] = top_of_each_group(score[row, mine], group, torch.tensor(counts, device=group.device))
        return stays

    def _groups(self, context: LLMContext, row: int, ordinal: int) -> Tensor:
        """The group of each of an image's tokens (n_tokens,); one for all where none was made, as it entered whole."""
        layout, extras = context.layouts[row][ordinal], context.extras[row][ordinal]
        group = torch.zeros(layout.n_tokens, dtype=torch.long, device=context.token.device)
        for number, view in enumerate(self.tiling.views_to_prune(layout)):
            found = extras.get(f"group/{number}" if number else "group")
            if found is not None:
                found = found.to(group.device) + 2 * layout.frames * number
                group = group.index_copy(0, view.tokens.to(group.device), found)
        return group

    def metric_flops(self, n_tokens: int, shape: ModelShape) -> float:
        """Of one frame of ``n_tokens``: all pairs, and one attention row in the LLM (the question's length varies)."""
        row = attention_score_flops(1, self.schedule(n_tokens, shape.layers).vision, shape.hidden)
        return cosine_flops(n_tokens, shape.hidden) + row * self.prunes_llm
