"""FastV (arXiv 2403.06764; code pkunlp-icler/FastV, commit d165972): drop what the last token ignores.

On entry of an early layer K of the LLM, the visual tokens go that received the least attention from the last prompt
token in layer K - 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from nuwa.pruners.base import Facts, LLMContext, Pruner, require
from nuwa.pruning.budget import ModelShape, Schedule, attention_score_flops, check_reached, layer_at


def last_token_attention(context: LLMContext) -> Tensor:
    """Attention of the last token to every token in the layer before, mean over heads: (B, L)."""
    before = context.previous
    last = torch.tensor([before.hidden.shape[1] - 1], device=before.hidden.device)
    return before.attention(last).float().mean(1)[:, 0]


@dataclass
class FastV(Pruner):
    """``layer`` is the pruning layer as a fraction of depth: 1/16 is the authors' K = 2 of LLaVA-1.5-7B's 32."""

    layer: float = 1 / 16

    name: ClassVar[str] = "fastv"
    looks_back: ClassVar[bool] = True
    facts: ClassVar[Facts] = Facts(
        paper="arXiv 2403.06764",
        source="pkunlp-icler/FastV@d165972",
        signal="attention of the last prompt token",
        text_aware=True,
        counts="ours: solved for the average (the authors publish ranks of 72 to 432)",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.layer < 1, "layer", "a fraction of the depth in (0, 1)", self.layer)

    def schedule(self, n_tokens: int, layers: int) -> Schedule:
        target, layer = self.budget.tokens(n_tokens), layer_at(self.layer, layers)
        keep = round((target * layers - layer * n_tokens) / (layers - layer))
        schedule = Schedule(n_tokens, ((layer, keep),) if keep < n_tokens else ())
        floor = (layer * n_tokens + layers - layer) / layers
        reachable = f"the first {layer} see all {n_tokens} tokens, so that it needs {floor:.1f} or more"
        return check_reached(self.name, schedule, target, layers, reachable)

    def prune_llm(self, context: LLMContext, keep: Tensor) -> Tensor:
        return context.top_k(last_token_attention(context), keep)

    def metric_flops(self, n_tokens: int, shape: ModelShape) -> float:
        """One attention row (Table 4)."""
        return attention_score_flops(1, n_tokens, shape.hidden)
