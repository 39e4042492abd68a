"""IVC-Prune (ICLR 2026; code FireRedTeam/IVC-Prune, commit 03afd9ce): tokens at positions that serve as coordinates.

Rotary embeddings turn queries and keys by angles that grow with the position. Where the turn is nearly none, or nearly
a right angle, on average over frequencies, a token serves as an implicit visual coordinate: it stays, whatever it
shows. Besides, what resembles the text by its values stays, and what resembles the best of that.

Shape letters: B prompts, L tokens, Q text tokens, m seeds, H heads, d head width, C axes, I images of a prompt.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from nuwa.pruners.base import LLMContext, MethodInfo, Pruner, require
from nuwa.pruning.budget import BudgetError, Dial
from nuwa.pruning.coordinates import rotations
from nuwa.pruning.flops import ModelShape, attention_score_flops
from nuwa.pruning.schedules import Schedule, layer_at, one_stage
from nuwa.pruning.scores import softmax_rows, split_heads
from nuwa.pruning.selection import strongest

DEPTHS = {"late": 1 / 2, "early": 1 / 16}
"""Where tokens leave: at the authors' layer 16 of 32, and at 2 for budgets that this cannot reach."""
SKIPPED = 2
"""Tokens right behind an image that are not heard: the newline or tag that closes it."""


def share_of_each(count: Tensor, share: float) -> Tensor:
    """``share`` of each count, rounded to the nearest, halves to even: (B, I) -> (B, I)."""
    return (count.double() * share).round().long()


def heard_text(context: LLMContext, mine: Tensor) -> Tensor:
    """The text behind the image ``mine`` (B, L) that scores it, all text where nothing follows it: (B, L) bool."""
    place = torch.arange(mine.shape[1], device=mine.device)
    last = torch.where(mine, place, -1).amax(1, keepdim=True)
    behind = context.text & (place > last + SKIPPED)
    return torch.where(behind.any(1, keepdim=True), behind, context.text)


def value_scores(
    values: Tensor, mine: Tensor, text: Tensor, among: Tensor, seeds: Tensor, most: int
) -> tuple[Tensor, Tensor, Tensor]:
    """How much text resembles each token by values, then text and the image's seeds (B, L), and the seeds (B, L) bool.

    Similarity is a softmax of the products of values (B, H, L, d) over the tokens ``among`` (B, L), mean over heads. It
    is not causal. First the rows of ``text`` (B, L) are averaged; the best ``seeds`` (B,), no more than ``most``, of
    the image ``mine`` (B, L) are seeds, whose rows then join the average.
    """
    scale, allowed = values.shape[-1] ** -0.5, among[:, None, None]
    queries = text.any(0).nonzero()[:, 0]
    rows = softmax_rows(values[:, :, queries], values, scale, allowed).mean(1)
    total, count = (text[:, None, queries].float() @ rows)[:, 0], text.sum(1, keepdim=True)
    first = total / count.clamp(min=1)
    best = strongest(first.masked_fill(~mine, float("-inf")), most)
    real = torch.arange(most, device=best.device) < seeds[:, None]
    rows = softmax_rows(
        values.gather(2, best[:, None, :, None].expand(-1, values.shape[1], -1, values.shape[-1])),
        values,
        scale,
        allowed,
    )
    total, count = total + (real[:, None].float() @ rows.mean(1))[:, 0], count + seeds[:, None]
    return first, total / count.clamp(min=1), torch.zeros_like(mine).scatter(1, best, real)


@dataclass
class IVCPrune(Pruner):
    """Keep coordinates and seeds, then what resembles seeds and text best, from the middle of the LLM on.

    ``coordinates`` is the share of an image's tokens with the largest mean cosine, and as many with the largest sine;
    ``null`` is the authors': 0.05 on models with one axis of position ids, 0.1 on those with three (M-RoPE). ``seeds``
    is a share too. With one axis similarity is over the whole prompt, with three over the image, as in the authors'
    files for LLaVA and Qwen2.5-VL. ``ladder`` places the stage: ``late`` at the authors' layer 16 of 32, ``early`` at
    2, ``auto`` late where it reaches.

    The Qwen file fills up by score to half of the tokens, which a budget does here. ``adaptive`` is the LLaVA file:
    what stays is the union with the ``foreground``, the best share by score, about 0.27 of an image, 366 of 576 on
    average; it needs budget=full. The release starts the image at a fixed place of a prompt without system text, about
    30 tokens too early; here it starts where it starts. Both files also cut the cache of the layers before, which saves
    memory while decoding; here these layers keep it.
    """

    coordinates: float | None = None
    seeds: float = 0.01
    foreground: float = 0.2
    ladder: Literal["auto", "late", "early"] = "auto"
    adaptive: bool = False

    name: ClassVar[str] = "ivc_prune"
    needs: ClassVar[Set[str]] = {"previous"}
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="ICLR 2026",
        source="FireRedTeam/IVC-Prune@03afd9ce",
        signal="rotary angles of positions, similarity of values with the question",
        text_aware=True,
        counts="ours: solved for the average; theirs by `adaptive=true`",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("coordinates", "seeds", "foreground"):
            value = getattr(self, key)
            require(value is None or 0 <= value <= 1, key, "a share in [0, 1]", value)

    @property
    def counts_by_itself(self) -> bool:
        return self.adaptive

    @property
    def dial(self) -> Dial | None:
        return Dial("foreground", fewest=0.0, most=1.0) if self.adaptive else None

    def schedule(self, n_tokens: int, layers: int) -> Schedule:
        """One stage; under ``adaptive``, which refuses a budget, with an upper bound."""
        at = {name: layer_at(depth, layers) for name, depth in DEPTHS.items()}
        if self.adaptive:
            if not self.budget.full:
                raise BudgetError(f"pruner {self.name}: with pruner.adaptive=true the image decides; use budget=full")
            return Schedule(n_tokens, ((at["early" if self.ladder == "early" else "late"], n_tokens),))
        target = self.budget.tokens(n_tokens)
        floors = {name: (layer * n_tokens + layers - layer) / layers for name, layer in at.items()}
        ladder = self.ladder if self.ladder != "auto" else "late" if floors["late"] <= target else "early"
        reachable = ", ".join(f"ladder={name} needs {floor:.1f} or more" for name, floor in floors.items())
        return self.reached(one_stage(target, n_tokens, layers, at[ladder]), target, layers, reachable)

    def prune_llm(self, context: LLMContext, keep: Tensor) -> Tensor:
        member = context.image[:, None] == torch.arange(keep.shape[1], device=keep.device)[:, None]
        count = member.sum(-1)
        seeded, score = self.relevance(context, member, share_of_each(count, self.seeds).clamp(min=1).minimum(count))
        share = self.coordinates
        if share is None:
            share = 0.05 if len(context.position_ids) == 1 else 0.1
        stays = seeded
        for turn in rotations(context.position_ids, context.frequencies):
            stays = stays | context.top_k(turn, share_of_each(count, share))
        if self.adaptive:
            return stays | context.top_k(score, share_of_each(count, self.foreground))
        return context.top_k(score, keep, first=stays)

    def relevance(self, context: LLMContext, member: Tensor, seeds: Tensor) -> tuple[Tensor, Tensor]:
        """The seeds (B, L) bool of all images, ``member`` (B, I, L), and every token's score (B, L)."""
        before = context.previous
        values = before.values().float()
        heads = split_heads(values, values.shape[-1] // before.kv_heads)
        most = round(self.seeds * values.shape[1]) + 1
        seeded, score = torch.zeros_like(context.valid), torch.zeros_like(values[..., 0])
        for ordinal, mine in enumerate(member.unbind(1)):
            among = context.valid if len(context.position_ids) == 1 else mine | ~mine.any(1, keepdim=True)
            text = heard_text(context, mine)
            _, second, mark = value_scores(heads, mine, text, among, seeds[:, ordinal], most)
            seeded, score = seeded | mark & mine, torch.where(mine, second, score)
        return seeded, score

    def metric_flops(self, n_tokens: int, shape: ModelShape) -> float:
        """The rows of the seeds and one of the text (its tokens depend on the question), and the values themselves."""
        width = shape.kv_heads * shape.head_dim
        rows = round(self.seeds * n_tokens) + 1
        return attention_score_flops(rows, n_tokens, shape.hidden) + 2 * n_tokens * shape.hidden * width
