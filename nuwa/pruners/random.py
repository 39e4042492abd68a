"""Random: a uniform choice of tokens before the LLM, the baseline that any selector has to beat.

The draw depends on the image's id and the seed alone, so that it repeats under any batching and on any machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from nuwa.pruners.base import MethodInfo, Pruner, VisionContext, VisionDecision


@dataclass
class RandomPruner(Pruner):
    """Keep tokens drawn without replacement, in raster order."""

    name: ClassVar[str] = "random"
    info: ClassVar[MethodInfo] = MethodInfo(signal="a draw from the image's id and the seed", counts="ours")

    def prune_vision(self, context: VisionContext, keep: int) -> VisionDecision:
        images, n_tokens = context.features.shape[:2]
        draws = [
            torch.randperm(n_tokens, generator=context.generator(image, self.seed))[:keep].sort().values
            for image in range(images)
        ]
        return VisionDecision(torch.stack(draws).to(context.features.device))
