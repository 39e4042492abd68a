"""Methods that see all frames of a video at once, and decide on every video by itself.

How many tokens a segment or a frame of a video keeps depends on what it shows, so nothing here is shared by a batch.

Shape letters as in `contexts`, of one video: F frames of M tokens, N = F M, K kept tokens.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from nuwa.pruners.base import Pruner, require
from nuwa.pruners.contexts import VisionContext, VisionDecision
from nuwa.pruning.schedules import Schedule, Share, layer_at, share_out, two_stages
from nuwa.pruning.tiling import FramesTogether, Tiling


@dataclass
class VideoTokens:
    """What is left of one video, as in `VisionDecision` without the batch; ``tokens`` (K, H) are its ``projected``.

    ``extras``: (N,) or (K,), of which pictures know ``segment``, the number of the one that a token's frame belongs to,
    and ``tree``, the number of the token that each one hangs on (by default the one that it went into, or -1).
    """

    cells: Tensor
    tokens: Tensor
    members: Tensor
    sizes: Tensor | None = None
    shares: Tensor | None = None
    weights: Tensor | None = None
    extras: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.extras.setdefault("tree", self.cells[self.members].masked_fill(self.members < 0, -1))


class VideoPruner(Pruner):
    """Base of methods that are shown a video whole; a picture is a video of one frame."""

    @property
    def tiling(self) -> Tiling:
        return FramesTogether()

    @abstractmethod
    def compress(self, features: Tensor, taps: Mapping[str, Tensor], keep: int) -> VideoTokens:
        """Keep about ``keep`` tokens of a video: projected ``features`` (F, M, H), ``taps`` without the batch."""

    def prune_vision(self, context: VisionContext, keep: int) -> VisionDecision:
        features = context.project(context.features)
        videos, n_tokens = features.shape[:2]
        if keep == n_tokens and self.dial is None:
            return VisionDecision(torch.arange(n_tokens, device=features.device).expand(videos, -1))
        return self.decide(features.unflatten(1, (context.frames, -1)), context.taps, keep)

    def decide(self, features: Tensor, taps: Mapping[str, Tensor], keep: int) -> VisionDecision:
        """`compress` of several videos: projected ``features`` (B, F, M, H)."""
        alone = [{name: tap[video] for name, tap in taps.items()} for video in range(len(features))]
        return together([self.compress(video, tap, keep) for video, tap in zip(features, alone, strict=True)])


@dataclass
class TwoStageVideo(VideoPruner):
    """Base of methods that prune a second time inside the LLM, by attention in the layer before ``inner_layer``.

    That is a fraction of the depth. About ``inner_keep`` of the tokens that entered stay there, 1: all. How many enter
    follows from the budget; where more would have to than there are, all enter, and as many stay as spend it.
    """

    inner_layer: float = 0.5
    inner_keep: float = 1.0

    behind_vision: ClassVar[Set[str]] = frozenset({"budget", "inner_layer", "inner_keep"})

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.inner_layer < 1, "inner_layer", "a fraction of the depth in (0, 1)", self.inner_layer)
        require(0 < self.inner_keep <= 1, "inner_keep", "in (0, 1]", self.inner_keep)

    @property
    def prunes_llm(self) -> bool:
        return self.inner_keep < 1

    @property
    def needs(self) -> Set[str]:
        return {"previous"} if self.prunes_llm else set()

    def schedule(self, n_tokens: int, layers: int) -> Schedule:
        if not self.prunes_llm:
            return super().schedule(n_tokens, layers)
        target, at = self.budget.tokens(n_tokens), layer_at(self.inner_layer, layers)
        reachable = f"one token or more has to enter and to stay from layer {at} on"
        schedule = self.reached(two_stages(target, n_tokens, layers, at, self.inner_keep), target, layers, reachable)
        if not (self.counts_by_itself and schedule.llm):
            return schedule
        share = self.inner_keep if schedule.vision < n_tokens else schedule.per_layer(layers)[-1] / n_tokens
        return Schedule(schedule.vision, ((at, Share(share)),))


def together(left: Sequence[VideoTokens]) -> VisionDecision:
    """The decision on several videos of one size."""

    def padded(name: str) -> Tensor:
        return pad_sequence([getattr(one, name) for one in left], batch_first=True)

    merging = [name for name in ("members", "sizes", "shares", "weights") if getattr(left[0], name) is not None]
    return VisionDecision(
        padded("cells"),
        projected=padded("tokens"),
        extras={name: pad_sequence([one.extras[name] for one in left], batch_first=True) for name in left[0].extras},
        counts=torch.tensor([len(one.cells) for one in left]),
        **{name: padded(name) for name in merging},
    )


def spaced(total: int, parts: int) -> list[int]:
    """Divide ``total`` evenly; what is left over goes to parts far from each other.

    >>> spaced(6, 4)
    [1, 2, 1, 2]
    """
    return [(i + 1) * total // parts - i * total // parts for i in range(parts)]


def clusters_of_groups(total: int, sizes: Sequence[int]) -> list[int]:
    """Divide ``total`` clusters among groups of these ``sizes``: one for each, if that suffices, more in proportion.

    >>> clusters_of_groups(6, [9, 3, 0, 1]), clusters_of_groups(1, [9, 3, 0, 1])
    ([3, 2, 0, 1], [1, 0, 0, 0])
    """
    least, total = [min(size, 1) for size in sizes], min(total, sum(sizes))
    if total < sum(least):
        return share_out(total, sizes)
    rest = [size - one for size, one in zip(sizes, least, strict=True)]
    more = share_out(total - sum(least), rest) if any(rest) else rest
    return [one + extra for one, extra in zip(least, more, strict=True)]


def first_of_frames(order: Tensor, counts: Sequence[int], n_tokens: int) -> tuple[Tensor, Tensor]:
    """The first ``counts`` (F,) tokens of every frame, of indices (F, C), and which tokens (F, ``n_tokens``) are left.

    Tokens are numbered frame by frame: (sum of counts,).

    >>> first_of_frames(torch.tensor([[1, 0], [0, 1]]), [1, 2], 2)
    (tensor([1, 2, 3]), tensor([[ True, False],
            [False, False]]))
    """
    device = order.device
    frame = torch.tensor([frame for frame, count in enumerate(counts) for _ in range(count)], dtype=torch.long)
    rank = torch.tensor([rank for count in counts for rank in range(count)], dtype=torch.long)
    frame, rank = frame.to(device), rank.to(device)
    chosen = order[frame, rank] + n_tokens * frame
    left = torch.ones(len(order) * n_tokens, dtype=torch.bool, device=device).index_fill(0, chosen, False)
    return chosen, left.view(len(order), n_tokens)
