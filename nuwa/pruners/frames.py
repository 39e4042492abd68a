"""Methods that are shown all frames of a video at once.

Shape letters: B videos, F frames, N tokens of a frame, K kept tokens, D feature width.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from nuwa.pruners.base import Pruner, VisionContext, VisionDecision
from nuwa.pruning.tiling import FramesTogether


class FramePruner(Pruner):
    """Base of methods that see all frames of a video together; a picture is a video of one frame.

    Frames, and what is whole in them, decide how near a number of tokens comes to the budget. A run whose mean misses
    it says so.
    """

    tiling: ClassVar[FramesTogether] = FramesTogether()
    counts_by_itself: ClassVar[bool] = True

    @abstractmethod
    def choose(self, features: Tensor, keep: int) -> VisionDecision:
        """Keep about ``keep`` tokens of each video: features (B, F, N, D) behind the projector."""

    def prune_vision(self, context: VisionContext, keep: int) -> VisionDecision:
        features = context.project(context.features)
        videos, n_tokens = features.shape[:2]
        if keep == n_tokens:
            return VisionDecision(torch.arange(keep, device=features.device).expand(videos, -1))
        return self.choose(features.unflatten(1, (context.frames, -1)), keep)


def stretches(frames: int, count: int) -> tuple[Tensor, Tensor]:
    """Which of ``count`` stretches of equal length, or nearly so, each frame lies in, and the middle frame of each.

    >>> stretches(5, 2)
    (tensor([0, 0, 1, 1, 1]), tensor([0, 3]))
    """
    bounds = torch.arange(count + 1) * frames // count
    return torch.arange(count).repeat_interleave(bounds.diff()), (bounds[:-1] + bounds[1:] - 1) // 2


def whole_frames(chosen: Tensor, n_tokens: int) -> Tensor:
    """All tokens of frames (C,) of ``n_tokens`` each: (C * N,).

    >>> whole_frames(torch.tensor([0, 2]), 2)
    tensor([0, 1, 4, 5])
    """
    return (chosen[:, None] * n_tokens + torch.arange(n_tokens, device=chosen.device)).flatten()
