"""Frame dropping: the baseline that shows fewer frames. Nobody publishes it; every method should do better.

Shape letters: B videos, F frames, N tokens of a frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from nuwa.pruners.base import MethodInfo, VisionDecision
from nuwa.pruners.frames import FramePruner, stretches, whole_frames


@dataclass
class FrameDrop(FramePruner):
    """Keep as many whole frames as come nearest to the budget, at equal distances, and one at least."""

    name: ClassVar[str] = "frame_drop"
    info: ClassVar[MethodInfo] = MethodInfo(signal="time alone", counts="ours: whole frames")

    def decide(self, features: Tensor, taps: Mapping[str, Tensor], keep: int) -> VisionDecision:
        videos, frames, n_tokens = features.shape[:3]
        _, middle = stretches(frames, max(1, round(keep / n_tokens)))
        return VisionDecision(whole_frames(middle.to(features.device), n_tokens).expand(videos, -1))
