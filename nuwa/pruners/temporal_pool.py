"""Temporal pooling: the baseline that averages frames. Nobody publishes it; every method should do better.

Shape letters: B videos, F frames, N tokens of a frame, K kept tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nuwa.pruners.base import MethodInfo, VisionContext, VisionDecision
from nuwa.pruners.frames import FramePruner, stretches, whole_frames
from nuwa.pruning.merging import merge_alike


@dataclass
class TemporalPool(FramePruner):
    """Average neighbouring frames, place by place, into as many as come nearest to the budget, and one at least.

    Each stands where the middle one of its frames was.
    """

    name: ClassVar[str] = "temporal_pool"
    info: ClassVar[MethodInfo] = MethodInfo(signal="time alone", merges=True, counts="ours: whole frames")

    def prune_vision(self, context: VisionContext, keep: int) -> VisionDecision:
        videos, tokens = context.features.shape[:2]
        cells = tokens // context.frames
        group, middle = stretches(context.frames, max(1, round(keep / cells)))
        device = context.features.device
        members = whole_frames(group, cells).to(device).expand(videos, -1)
        kept = whole_frames(middle, cells).to(device).expand(videos, -1)
        pooled = merge_alike(context.features, kept, members, None)
        return VisionDecision(
            kept, pooled, {"segment": group.repeat_interleave(cells).to(device).expand(videos, -1)}, members=members
        )
