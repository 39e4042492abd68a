"""Methods that see all frames of a video at once, and decide on every video by itself.

How many tokens a segment or a frame of a video keeps depends on what it shows, so nothing here is shared by a batch.

Shape letters as in `contexts`, of one video: F frames of M tokens, N = F M, K kept tokens.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from nuwa.pruners.base import Pruner
from nuwa.pruners.contexts import VisionContext, VisionDecision
from nuwa.pruning.tiling import FramesTogether, Tiling


@dataclass
class VideoTokens:
    """What is left of one video, as in `VisionDecision` without the batch; ``tokens`` (K, H) are its ``projected``.

    ``extras``: (N,) or (K,), of which pictures know ``tree``, the number of the token that each one hangs on, and
    ``segment``, the number of that which its frame belongs to.
    """

    cells: Tensor
    tokens: Tensor
    members: Tensor
    shares: Tensor | None = None
    weights: Tensor | None = None
    extras: dict[str, Tensor] = field(default_factory=dict)


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
        if keep == n_tokens:
            return VisionDecision(torch.arange(n_tokens, device=features.device).expand(videos, -1))
        return self.decide(features.unflatten(1, (context.frames, -1)), context.taps, keep)

    def decide(self, features: Tensor, taps: Mapping[str, Tensor], keep: int) -> VisionDecision:
        """`compress` of several videos: projected ``features`` (B, F, M, H)."""
        alone = [{name: tap[video] for name, tap in taps.items()} for video in range(len(features))]
        return together([self.compress(video, tap, keep) for video, tap in zip(features, alone, strict=True)])


def together(left: Sequence[VideoTokens]) -> VisionDecision:
    """The decision on several videos of one size."""

    def padded(name: str) -> Tensor:
        return pad_sequence([getattr(one, name) for one in left], batch_first=True)

    merging = [name for name in ("members", "shares", "weights") if getattr(left[0], name) is not None]
    return VisionDecision(
        padded("cells"),
        projected=padded("tokens"),
        extras={name: pad_sequence([one.extras[name] for one in left], batch_first=True) for name in left[0].extras},
        counts=torch.tensor([len(one.cells) for one in left]),
        **{name: padded(name) for name in merging},
    )
