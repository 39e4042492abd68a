"""Methods over the frames of a video, for several videos of one size at once.

Shape letters: B videos, F frames, N tokens of a frame, C chosen frames, D feature width.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from nuwa.pruners.videos import VideoPruner


class FramePruner(VideoPruner):
    """Base of methods that ``decide`` for several videos at once, and keep as many tokens as their frames allow."""

    counts_by_itself: ClassVar[bool] = True


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
