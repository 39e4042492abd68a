"""CDPruner (arXiv 2506.10967; code Theia-4869/CDPruner, commit 9541616): diverse tokens that matter to the question.

A determinantal point process over projected features whose kernel is weighted with each token's relevance; greedy MAP
inference picks the tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from nuwa.pruners.base import Facts, LLMContext, Pruner
from nuwa.pruners.nuwa import text_relevance
from nuwa.pruning.budget import ModelShape, Schedule, check_reached, norm_flops


def unit_range(relevance: Tensor) -> Tensor:
    """Stretch to about [0, 1], the smallest staying above zero: (N,) or more -> same shape."""
    low, high = relevance.min(), relevance.max()
    return (relevance - low + 1e-6) / (high - low)


def greedy_map(features: Tensor, relevance: Tensor, keep: int) -> Tensor:
    """Greedy MAP of a DPP with kernel r_i cos(f_i, f_j) r_j: (N, D), (N,) -> indices (keep,) in the order of picking.

    Cholesky updates with one kernel row per pick, no N x N kernel. Once the kernel's rank is used up (never more than
    D), the most relevant of the rest follow.
    """
    direction = functional.normalize(features.float(), dim=-1) * relevance.float()[:, None]
    gain = direction.square().sum(-1)
    spent = torch.finfo(gain.dtype).eps * gain.max()
    rows = direction.new_zeros(keep, len(direction))
    order: list[int] = []
    taken = torch.zeros(len(direction), dtype=torch.bool, device=direction.device)
    for step in range(keep):
        left = gain.masked_fill(taken, float("-inf"))
        best = int(left.argmax())
        if left[best] <= spent:
            rest = relevance.masked_fill(taken, float("-inf")).argsort(descending=True, stable=True)
            return torch.tensor([*order, *rest[: keep - step].tolist()], device=direction.device)
        row = direction @ direction[best] - rows[:step].T @ rows[:step, best]
        rows[step] = row / gain[best].sqrt()
        gain = gain - rows[step].square()
        taken[best] = True
        order.append(best)
    return torch.tensor(order, device=direction.device)


@dataclass
class CDPruner(Pruner):
    """The authors' selection with another relevance: cosine of a projected token with the question's mean embedding.

    The release takes relevance from CLIP's joint space, minus the cosine of patch and question (patch and text are
    known to be anti-correlated there), which needs CLIP's text tower and its projections. A LLaVA checkpoint has
    neither, so the question is read where the LLM reads it, on entry of its first layer. Numbers of this method are
    therefore not the authors'; the selection for a given relevance is theirs exactly. The release stretches relevance
    over a whole batch, so that images of a batch depend on each other; here each image stands alone.
    """

    name: ClassVar[str] = "cdpruner"
    native_position: ClassVar[str] = "perc"
    facts: ClassVar[Facts] = Facts(
        paper="arXiv 2506.10967",
        source="Theia-4869/CDPruner@9541616",
        signal="DPP of projected features, weighted by the question's embedding (authors: CLIP text)",
        text_aware=True,
    )

    def schedule(self, n_tokens: int, layers: int) -> Schedule:
        target = self.budget.tokens(n_tokens)
        schedule = Schedule(n_tokens, ((0, round(target)),) if round(target) < n_tokens else ())
        return check_reached(self.name, schedule, target, layers, "it keeps whole tokens, one or more")

    def prune_llm(self, context: LLMContext, keep: Tensor) -> Tensor:
        """On entry of layer 0: visual tokens are projected features, text tokens are embeddings."""
        relevance = text_relevance(context.hidden, context.question)
        kept = context.text.clone()
        for row, ordinal, visual in context.each_image():
            if count := min(int(keep[row, ordinal]), len(visual)):
                chosen = greedy_map(context.hidden[row, visual], unit_range(relevance[row, visual]), count)
                kept[row, visual[chosen]] = True
        return kept

    def metric_flops(self, n_tokens: int, shape: ModelShape) -> float:
        """Relevance, and per pick one kernel row and its Cholesky update."""
        kept = self.schedule(n_tokens, shape.layers).per_layer(shape.layers)[0]
        return norm_flops(n_tokens, shape.hidden) + kept * n_tokens * (2 * shape.hidden + kept)
