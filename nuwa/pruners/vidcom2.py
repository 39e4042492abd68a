"""VidCom2 (EMNLP 2025; code xuyang-liu16/VidCom2, commit 944a17d1): what is unlike the video, and unlike its frame.

Frames that differ from the rest of the video keep more tokens than others, and of every frame those stay that least
resemble the means of the video and of the frame. Tokens are compared in the half of the channels that vary least.

Shape letters: B videos, F frames, N tokens of a frame, C channels, D feature width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from nuwa.pruners.base import MethodInfo, VisionDecision
from nuwa.pruners.videos import VideoPruner
from nuwa.pruning.flops import ModelShape, attention_score_flops
from nuwa.pruning.selection import marked, strongest

WIDTHS, TEMPERATURE = (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0), 0.01
"""Of the Gaussians whose sum is a likeness, and of the softmax over frames."""


def steady_channels(features: Tensor) -> Tensor:
    """The half of the channels that vary least over a video, one or more, in order: (B, F, N, D) -> (B, C)."""
    variance = features.flatten(1, 2).var(1, correction=0)
    return strongest(-variance, max(1, features.shape[-1] // 2)).sort(dim=-1).values


def likeness(tokens: Tensor, centre: Tensor) -> Tensor:
    """The sum of Gaussians of the distance to a centre: (..., N, C), (..., 1, C) -> (..., N)."""
    distance = (tokens - centre).square().sum(-1)
    return torch.stack([(-distance / (2 * width)).exp() for width in WIDTHS]).sum(0)


def likeness_to_means(features: Tensor) -> tuple[Tensor, Tensor]:
    """How like the mean of its video, and that of its frame, every token is: (B, F, N, D) -> two of (B, F, N)."""
    features = features.float()
    channels = steady_channels(features)[:, None, None].expand(*features.shape[:3], -1)
    tokens = functional.normalize(features.gather(3, channels), dim=-1)
    return likeness(tokens, tokens.mean((1, 2), keepdim=True)), likeness(tokens, tokens.mean(2, keepdim=True))


def frame_shares(to_video: Tensor, ratio: float) -> Tensor:
    """The share of each frame's tokens that stays, where ``ratio`` of all does: likeness (B, F, N) -> (B, F)."""
    unlike = (-to_video.mean(2) / TEMPERATURE).softmax(1)
    return (ratio * (1 + unlike - unlike.mean(1, keepdim=True))).clamp(max=1)


def least_like(to_video: Tensor, to_frame: Tensor, ratio: float) -> Tensor:
    """Mark the tokens that stay, of each frame one or more, halves to the even number: (B, F, N) twice -> (B, F, N)."""
    counts = (frame_shares(to_video, ratio) * to_video.shape[2]).round().clamp(min=1)
    rank = (to_video + to_frame).argsort(dim=2, stable=True).argsort(dim=2)
    return rank < counts[..., None]


def exactly(stays: Tensor, score: Tensor, keep: int) -> Tensor:
    """The ``keep`` lowest scores of what is marked, or all of it and the lowest of the rest: (B, M) -> (B, keep)."""
    order = score.argsort(dim=1, stable=True)
    order = order.gather(1, (~stays.gather(1, order)).byte().argsort(dim=1, stable=True))
    return order[:, :keep].sort(dim=1).values


@dataclass
class VidCom2(VideoPruner):
    """Keep the tokens that are least like the means of their video and their frame; of unusual frames more.

    Counts of frames are rounded each by itself, so that all together miss the budget by a little, by more where frames
    would keep more than they have. ``variant: vllm`` is vLLM's port (0.32.0), which meets it: what is too much leaves,
    and what is missing comes back, by the same scores over the whole video.
    """

    variant: Literal["paper", "vllm"] = "paper"

    name: ClassVar[str] = "vidcom2"
    native_position: ClassVar[str] = "perc"
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="EMNLP 2025",
        source="xuyang-liu16/VidCom2@944a17d1",
        signal="distance from the means of the video and of the frame",
        counts="authors'",
    )

    @property
    def counts_by_itself(self) -> bool:
        return self.variant == "paper"

    def decide(self, features: Tensor, taps: Mapping[str, Tensor], keep: int) -> VisionDecision:
        to_video, to_frame = likeness_to_means(features)
        stays = least_like(to_video, to_frame, keep / to_video[0].numel()).flatten(1)
        score = (to_video + to_frame).flatten(1)
        kept, counts = (exactly(stays, score, keep), None) if self.variant == "vllm" else marked(stays)
        return VisionDecision(kept, extras={"salience": -score}, counts=counts)

    def metric_flops(self, n_tokens: int, shape: ModelShape) -> float:
        """Two distances for each token, in half of the channels."""
        return attention_score_flops(2, n_tokens, shape.hidden) / 2
