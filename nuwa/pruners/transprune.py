"""TransPrune (CVPR 2026; code liaolea/TransPrune, commit c9e8284f): keep the tokens that layers change most.

How much attention and MLPs turn and stretch a token adds up over a few layers. On entry of three layers the visual
tokens go that changed least and that the question attends to least.

Shape letters: B prompts, L tokens, I images of a prompt.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from nuwa.pruners.base import LLMContext, MethodInfo, Pruner
from nuwa.pruning.flops import ModelShape, attention_score_flops, norm_flops
from nuwa.pruning.schedules import Schedule, fit_schedule, layer_at, staged

STEPS = {"late": (7 / 32, 9 / 32, 12 / 32), "early": (2 / 32, 4 / 32, 6 / 32)}
"""Depths of the stages: behind the authors' layers 7, 9, 12 of 32, and earlier for budgets that these cannot reach."""
PUBLISHED = (0.875, 0.625, 0.125)
"""What of an image's tokens the authors keep at the stages: 236 of 576 on average."""


def powers(n_tokens: int, part: float, ladder: str, layers: int) -> Schedule:
    """The authors' ratios to a power: to the first at ``part`` 0.5, all tokens at 1, one at 0."""
    power = (1 - part) / max(part, 1e-6)
    counts = [max(1, int(n_tokens * ratio**power)) for ratio in PUBLISHED]
    return staged(n_tokens, STEPS[ladder], counts, layers)


def shares(score: Tensor, image: Tensor, images: int) -> Tensor:
    """Scores (B, L) divided by their sum over the tokens of each image (``image`` (B, L): its ordinal): (B, L)."""
    out = torch.zeros_like(score)
    for ordinal in range(images):
        mine = image == ordinal
        total = (score * mine).sum(1, keepdim=True) + 1e-8
        out = torch.where(mine, score / total, out)
    return out


@dataclass
class TransPrune(Pruner):
    """Keep what layers change most and the question attends to most, with equal weights, at three stages.

    Changes add up from the layer before the first stage on. ``ladder`` places the stages: ``late`` behind the authors'
    layers 7, 9 and 12 of 32, ``early`` behind 2, 4 and 6, ``auto`` late wherever that reaches. The authors publish one
    set of ratios, 0.875, 0.625, 0.125; other budgets are met with powers of them, which is ours. The release renumbers
    ids after every stage (PERC).
    """

    ladder: Literal["auto", "late", "early"] = "auto"

    name: ClassVar[str] = "transprune"
    native_position: ClassVar[str] = "perc"
    needs: ClassVar[Set[str]] = {"transitions"}
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="CVPR 2026",
        source="liaolea/TransPrune@c9e8284f",
        signal="how layers change tokens, and attention of the question",
        text_aware=True,
        counts="ours: solved for the average (authors: 0.875, 0.625, 0.125, which is 236 of 576)",
    )

    def schedule(self, n_tokens: int, layers: int) -> Schedule:
        target = self.budget.tokens(n_tokens)
        floors = {name: powers(n_tokens, 0.0, name, layers).average(layers) for name in STEPS}
        ladder = self.ladder if self.ladder != "auto" else "late" if floors["late"] <= target else "early"
        best = fit_schedule(lambda part: powers(n_tokens, part, ladder, layers), target, layers)
        reachable = ", ".join(f"ladder={name} needs {floor:.1f} or more" for name, floor in floors.items())
        return self.reached(best, target, layers, reachable)

    def prune_llm(self, context: LLMContext, keep: Tensor) -> Tensor:
        starts = {name: layer_at(depths[0], context.layers) for name, depths in STEPS.items()}
        start = starts["late"] if context.layer >= starts["late"] else starts["early"]
        changed = torch.stack([x for layer, x in context.transitions.items() if start - 1 <= layer < context.layer])
        queries = context.question.any(0).nonzero()[:, 0]
        text = context.question[:, queries].float()
        rows = context.attention(queries).mean(1).masked_fill(text[..., None] == 0, 0)
        heard = (text[:, None] @ rows)[:, 0] / text.sum(1, keepdim=True).clamp(min=1)
        both = (shares(score, context.image, keep.shape[1]) for score in (changed.sum(0), heard))
        return context.top_k(sum(both, torch.zeros_like(heard)), keep)

    def metric_flops(self, n_tokens: int, shape: ModelShape) -> float:
        """One attention row per stage, and two norms and a cosine of each block in the layers before the last stage."""
        schedule = self.schedule(n_tokens, shape.layers)
        rows = sum(attention_score_flops(1, count, shape.hidden) for count in schedule.before_stages())
        if not schedule.llm:
            return rows
        first, last = schedule.llm[0][0], schedule.llm[-1][0]
        seen = schedule.per_layer(shape.layers)[max(0, first - 1) : last]
        return rows + sum(2 * 3 * norm_flops(count, shape.hidden) for count in seen)
