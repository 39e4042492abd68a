"""DyCoke (code KD-TAO/DyCoke, commit dd74634): frames in fours, of which one stays whole and three are thinned.

Of every second frame those tokens stay that are least like the same place of the frame before, and of the third of
four frames those least like the first. Nothing is averaged, though the authors call it merging. Their second half,
which prunes the cache while an answer is written, is not part of this.

Shape letters: B videos, F frames, N tokens of a frame, C thinned frames, D feature width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from nuwa.pruners.base import MethodInfo, VisionDecision
from nuwa.pruners.frames import FramePruner, whole_frames
from nuwa.pruning.flops import ModelShape, attention_score_flops
from nuwa.pruning.selection import strongest


def thinned_frames(frames: int, last_four: bool = True) -> dict[int, int]:
    """The frames that are thinned, each with the one that it is compared with.

    Without ``last_four`` the third of the last four frames stays whole, as in the authors' code.

    >>> thinned_frames(8), thinned_frames(8, last_four=False)
    ({1: 0, 2: 0, 3: 2, 5: 4, 6: 4, 7: 6}, {1: 0, 2: 0, 3: 2, 5: 4, 7: 6})
    """
    pairs = {frame: frame - 1 for frame in range(1, frames, 2)}
    thirds = {frame: frame - 2 for frame in range(2, frames if last_four else frames - 2, 4)}
    return dict(sorted((pairs | thirds).items()))


def least_alike(features: Tensor, thinned: dict[int, int], keep: int) -> Tensor:
    """The ``keep`` tokens of each thinned frame that are least like their places in the other, least alike first.

    Features (B, F, N, D) -> (B, C, keep), numbered over the whole video.
    """
    direction, n_tokens = functional.normalize(features.float(), dim=-1), features.shape[2]
    frames, others = list(thinned), list(thinned.values())
    alike = (direction[:, frames] * direction[:, others]).sum(-1)
    starts = n_tokens * torch.tensor(frames, dtype=torch.long, device=features.device)
    return strongest(-alike, keep) + starts[:, None]


@dataclass
class DyCoke(FramePruner):
    """Thin three of four frames to as many tokens each as spend the budget (the authors keep 30 %).

    One frame of four is whole: a smaller budget is missed. A last frame that is without a partner stays whole, and so
    does a picture. ``variant: release``: it is lost, the third of the last four frames stays whole, and the tokens of a
    thinned frame stand in the order of their likeness. (Up to four frames the authors' code ends in an error.)
    """

    variant: Literal["paper", "release"] = "paper"

    name: ClassVar[str] = "dycoke"
    native_position: ClassVar[str] = "perc"
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="CVPR 2025",
        source="KD-TAO/DyCoke@dd74634",
        signal="change since an earlier frame, place by place",
        counts="ours: solved for the budget; one frame of four whole",
    )

    def decide(self, features: Tensor, taps: Mapping[str, Tensor], keep: int) -> VisionDecision:
        release, (videos, frames, n_tokens) = self.variant == "release", features.shape[:3]
        thinned = thinned_frames(frames, last_four=not release)
        lost = {frames - 1} if release and frames % 2 and frames > 1 else set()
        whole = torch.tensor(sorted(set(range(frames)) - set(thinned) - lost), device=features.device)
        each = (keep - len(whole) * n_tokens) // max(1, len(thinned))
        some = least_alike(features, thinned, min(max(each, 0), n_tokens)).flatten(1)
        kept = torch.cat([whole_frames(whole, n_tokens).expand(videos, -1), some], 1)
        order = (kept // n_tokens if release else kept).argsort(dim=1, stable=True)
        return VisionDecision(kept.gather(1, order))

    def metric_flops(self, n_tokens: int, shape: ModelShape) -> float:
        """A product for each of three quarters of the tokens."""
        return 0.75 * attention_score_flops(1, n_tokens, shape.hidden)
