"""Frame dropping: the baseline that shows fewer frames. Nobody publishes it; every method should do better.

Shape letters: B videos, F frames, N tokens of a frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nuwa.pruners.base import MethodInfo, VisionContext, VisionDecision
from nuwa.pruners.frames import FramePruner, stretches, whole_frames


@dataclass
class FrameDrop(FramePruner):
    """Keep as many whole frames as come nearest to the budget, at equal distances, and one at least."""

    name: ClassVar[str] = "frame_drop"
    info: ClassVar[MethodInfo] = MethodInfo(signal="time alone", counts="ours: whole frames")

    def prune_vision(self, context: VisionContext, keep: int) -> VisionDecision:
        videos, tokens = context.features.shape[:2]
        cells = tokens // context.frames
        _, middle = stretches(context.frames, max(1, round(keep / cells)))
        return VisionDecision(whole_frames(middle, cells).to(context.features.device).expand(videos, -1))
