"""FastV (arXiv 2403.06764; code pkunlp-icler/FastV, commit d165972): drop what the last token ignores.

On entry of an early layer K of the LLM, the visual tokens go that received the least attention from the last prompt
token in layer K - 1.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from nuwa.pruners.base import LLMContext, LLMPruner, MethodInfo
from nuwa.pruning.flops import ModelShape, attention_score_flops


@dataclass
class FastV(LLMPruner):
    """The authors prune at K = 2 of LLaVA-1.5-7B's 32 layers, which is the default of ``layer``."""

    name: ClassVar[str] = "fastv"
    needs: ClassVar[Set[str]] = {"previous"}
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="arXiv 2403.06764",
        source="pkunlp-icler/FastV@d165972",
        signal="attention of the last prompt token",
        text_aware=True,
        counts="ours: solved for the average (the authors publish ranks of 72 to 432)",
    )

    def prune_llm(self, context: LLMContext, keep: Tensor) -> Tensor:
        return context.top_k(context.previous.last_attention(), keep)

    def metric_flops(self, n_tokens: int, shape: ModelShape) -> float:
        """One attention row (Table 4)."""
        return attention_score_flops(1, n_tokens, shape.hidden)
