"""OccamToken (arXiv 2605.29657; no official code): what is worth less than a token without content may leave.

A register token, which gathers what is global in the tower, is the measure: before the LLM a patch stays if the CLS
token attends to it enough, compared with the register, and inside the LLM if the text does.

Shape letters: B images or prompts, N tokens of a view, H heads, Q text tokens, L tokens of a prompt, I its images.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from importlib import import_module
from typing import ClassVar

import torch
from torch import Tensor

from nuwa.pruners.base import (
    LLMContext,
    MethodInfo,
    MisfitError,
    Pruner,
    Tap,
    Tower,
    VisionContext,
    VisionDecision,
    require,
)
from nuwa.pruning.budget import BudgetError, Dial
from nuwa.pruning.flops import ModelShape, attention_score_flops
from nuwa.pruning.masks import gather_tokens
from nuwa.pruning.schedules import Schedule, layer_at, two_stages
from nuwa.pruning.selection import strongest

NONE, SHARE = "none", 1 / 4
"""No register, and the share of what enters the LLM that stays at its stage under a budget: about the authors'."""


def text_scores(attention: Tensor, text: Tensor, mine: Tensor, register: Tensor | None) -> tuple[Tensor, Tensor]:
    """What text makes of every token, and of the measure: (B, L) and (B, 1).

    A token's score is the largest attention (B, Q, L) that any token of ``text`` (B, Q) bool pays it. The measure is
    the mean attention to the place ``register`` (B,), or without one the mean score of the image ``mine`` (B, L).
    """
    rows = attention.masked_fill(~text[..., None], 0)
    score = rows.amax(1)
    if register is None:
        measure = (score * mine).sum(1) / mine.sum(1).clamp(min=1)
    else:
        measure = rows.gather(2, register[:, None, None].expand(-1, rows.shape[1], 1)).sum((1, 2)) / text.sum(1).clamp(
            min=1
        )
    return score, measure[:, None]


@dataclass
class OccamToken(Pruner):
    """Keep what is worth more than a share of the register, before the LLM and again inside it, at ``layer``.

    ``register`` is a file of the tower's register neurons (``python experiments/analysis/register_neurons.py``) or
    ``none``: then the mean score is the measure, which the authors found to be worse. A register takes a CLIP tower
    that sees one crop. It enters the LLM behind the patches, stays, and takes the smallest dropped index.

    Published is ``adaptive``: patches stay from ``lambda1`` x and ``lambda2`` x the measure on, and each image decides
    on its numbers; it needs budget=full, or a run that finds the lambda2 that spends a budget on average. Otherwise the
    budget is met: the best by the same scores stay, a quarter of those that enter the LLM from ``layer`` on. Heads are
    averaged first. How ids are to be numbered the paper does not say; here they are renumbered.
    """

    register: str = NONE
    lambda1: float = 0.015
    lambda2: float = 1.0
    layer: float = 11 / 32
    adaptive: bool = False

    name: ClassVar[str] = "occamtoken"
    behind_vision: ClassVar[Set[str]] = frozenset({"budget", "lambda2", "layer"})
    needs: ClassVar[Set[str]] = {"attention"}
    native_position: ClassVar[str] = "perc"
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="arXiv 2605.29657",
        signal="CLS attention, then attention of the question, compared with a register token's",
        text_aware=True,
        counts="ours: solved for the average; theirs by `adaptive=true`",
        nominal=Schedule(250, ((11, 64),)),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.layer < 1, "layer", "a fraction of the depth in (0, 1)", self.layer)
        for key in ("lambda1", "lambda2"):
            require(getattr(self, key) >= 0, key, "0 or more", getattr(self, key))

    @property
    def taps(self) -> Mapping[str, Tap]:
        if self.register == NONE:
            return {"attention": Tap("cls_attention")}
        neurons = import_module("nuwa.models.registers").read_neurons(self.register)
        kinds = {"attention": "cls_attention", "register": "register_attention", "feature": "register_feature"}
        return {name: Tap(kind, register=neurons) for name, kind in kinds.items()}

    def check_tower(self, tower: Tower) -> None:
        if self.register == NONE:
            return
        if tower.kind != "clip_vision_model" or tower.grid is None:
            raise MisfitError(
                f"pruner.register={self.register}: a register takes a CLIP tower that sees one crop of an image, "
                f"and this model has a {tower.kind} that sees others; use pruner.register=none"
            )
        import_module("nuwa.models.registers").read_neurons(self.register, tower)

    @property
    def counts_by_itself(self) -> bool:
        return self.adaptive

    @property
    def dial(self) -> Dial | None:
        return Dial("lambda2", fewest=1e4, most=0.0) if self.adaptive else None

    def schedule(self, n_tokens: int, layers: int) -> Schedule:
        """Two stages; under ``adaptive``, which refuses a budget, with upper bounds."""
        at = layer_at(self.layer, layers)
        if not self.adaptive:
            target = self.budget.tokens(n_tokens)
            return self.reached(
                two_stages(target, n_tokens, layers, at, SHARE), target, layers, "it keeps one or more at both stages"
            )
        if not self.budget.full:
            raise BudgetError(f"pruner {self.name}: with pruner.adaptive=true the image decides; use budget=full")
        return Schedule(n_tokens, ((at, n_tokens),))

    def prune_vision(self, context: VisionContext, keep: int) -> VisionDecision:
        score, n_tokens = context.taps["attention"].float().mean(1), context.features.shape[1]
        if keep == n_tokens and not self.adaptive:
            return VisionDecision(torch.arange(keep, device=score.device).expand(len(score), -1))
        register = context.taps.get("register")
        order, own = strongest(score, n_tokens), int(register is not None)
        if self.adaptive:
            measure = score.mean(1) if register is None else register.float().mean((1, 2))
            counts = (score >= self.lambda1 * measure[:, None]).sum(1).clamp(1 - own, n_tokens - own)
        else:
            counts = torch.full_like(score[:, 0], keep - own, dtype=torch.long)
        stays = torch.arange(n_tokens, device=score.device) < counts[:, None]
        stays = torch.zeros_like(stays).scatter(1, order, stays)
        kept = (~stays).byte().argsort(dim=1, stable=True)
        longest = int(counts.max()) if self.adaptive else keep - own
        extras = {"salience": score}
        if register is None:
            return VisionDecision(kept[:, :longest], extras=extras, counts=counts if self.adaptive else None)
        place = torch.arange(longest + 1, device=score.device) == counts[:, None]
        index = torch.where(place, (stays).byte().argmin(1, keepdim=True), kept[:, : longest + 1])
        states = torch.where(
            place[..., None], context.taps["feature"].to(context.features.dtype), gather_tokens(context.features, index)
        )
        return VisionDecision(index, states, extras, counts + 1 if self.adaptive else None)

    def prune_llm(self, context: LLMContext, keep: Tensor) -> Tensor:
        queries = context.question.any(0).nonzero()[:, 0]
        attention, text = context.attention(queries).mean(1), context.question[:, queries]
        places = torch.arange(context.image.shape[1], device=attention.device)
        score, stays = torch.zeros_like(attention[:, 0]), torch.zeros_like(context.valid)
        for ordinal in range(keep.shape[1]):
            mine = context.image == ordinal
            last = torch.where(mine, places, 0).amax(1)
            behind = text & (queries > last[:, None])
            here, measure = text_scores(attention, behind, mine, None if self.register == NONE else last)
            if self.register != NONE:
                here = here.scatter(1, last[:, None], 1.0 + here.amax(1, keepdim=True))
            score = torch.where(mine, here, score)
            stays |= mine & (here >= torch.minimum(self.lambda2 * measure, (here * mine).amax(1, keepdim=True)))
        context.scores["score"] = score
        return stays if self.adaptive else context.top_k(score, keep)

    def metric_flops(self, n_tokens: int, shape: ModelShape) -> float:
        """One attention row in the tower, and one in the LLM (the text's tokens depend on the question)."""
        entering = self.schedule(n_tokens, shape.layers).vision
        return attention_score_flops(1, n_tokens, shape.vision_hidden) + attention_score_flops(
            1, entering, shape.hidden
        )
