"""Temporal pooling: the baseline that averages frames. Nobody publishes it; every method should do better.

Shape letters: B videos, F frames, N tokens of a frame, K kept tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from nuwa.pruners.base import MethodInfo, VisionDecision
from nuwa.pruners.frames import FramePruner, stretches, whole_frames
from nuwa.pruning.merging import merge_alike


@dataclass
class TemporalPool(FramePruner):
    """Average neighbouring frames, place by place, into as many as come nearest to the budget, and one at least.

    Each stands where the middle one of its frames was.
    """

    name: ClassVar[str] = "temporal_pool"
    info: ClassVar[MethodInfo] = MethodInfo(
        signal="time alone", merges=True, merging="neighbouring frames, place by place", counts="ours: whole frames"
    )

    def decide(self, features: Tensor, taps: Mapping[str, Tensor], keep: int) -> VisionDecision:
        videos, frames, n_tokens = features.shape[:3]
        group, middle = (part.to(features.device) for part in stretches(frames, max(1, round(keep / n_tokens))))
        kept, members = (whole_frames(part, n_tokens).expand(videos, -1) for part in (middle, group))
        pooled = merge_alike(features.flatten(1, 2), kept, members, None)
        segment = group.repeat_interleave(n_tokens).expand(videos, -1)
        return VisionDecision(kept, projected=pooled, extras={"segment": segment}, members=members)
