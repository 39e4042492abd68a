"""EVS (arXiv 2510.14624; code by its authors in vLLM 0.32.0, vllm/multimodal/evs.py): keep what changes.

A token is worth as much as it differs from the one at the same place one frame earlier. The first frame stays whole.

Shape letters: B videos, F frames, N tokens of a frame, D feature width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from nuwa.pruners.base import MethodInfo, VisionDecision
from nuwa.pruners.frames import FramePruner
from nuwa.pruning.flops import ModelShape, attention_score_flops
from nuwa.pruning.selection import top_tokens

MOST, DIGITS = 2.0, 6
"""The largest change, which the first frame is given, and the digits of one that are no rounding of a still frame's."""


def change(features: Tensor) -> Tensor:
    """1 - cos of every token and the one at its place in the frame before: (B, F, N, D) -> (B, F, N), 0 to 2.

    That frame serves whether it stays or not. A zero vector is like nothing.
    """
    direction = functional.normalize(features.float(), dim=-1)
    changed = 1 - (direction[:, 1:] * direction[:, :-1]).sum(-1)
    return functional.pad(changed, (0, 0, 1, 0), value=MOST).round(decimals=DIGITS)


@dataclass
class EVS(FramePruner):
    """Keep the tokens that changed most, over all of a video, and the first frame: it stays whole, as does a picture.

    A budget below one frame is missed. Where frames are exactly alike the lower place stays; the authors' code leaves
    that to rounding.
    """

    name: ClassVar[str] = "evs"
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="arXiv 2510.14624",
        source="vllm-project/vllm@0.32.0",
        signal="change since the frame before, place by place",
        counts="authors'; the first frame whole",
    )

    def decide(self, features: Tensor, taps: Mapping[str, Tensor], keep: int) -> VisionDecision:
        changed = change(features)
        kept = top_tokens(changed.flatten(1), max(keep, changed.shape[2]))
        return VisionDecision(kept, extras={"salience": changed.flatten(1)})

    def metric_flops(self, n_tokens: int, shape: ModelShape) -> float:
        """A product for each token."""
        return attention_score_flops(1, n_tokens, shape.hidden)
