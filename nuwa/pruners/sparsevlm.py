"""SparseVLM (arXiv 2410.04417; code Gumpest/SparseVLMs, commit 26a5f48, v1): text raters, and recycled tokens.

Question tokens that resemble the image most rate visual tokens by attention. Of the dropped tokens the better part is
clustered, and each cluster goes on as one token behind the kept ones.

Shape letters as in `base`; M recycled tokens, C clusters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from torch import Tensor

from nuwa.pruners.base import LLMContext, LLMDecision, MethodInfo, Pruner
from nuwa.pruning.budget import BudgetError
from nuwa.pruning.density import cluster_means, density_clusters
from nuwa.pruning.flops import ModelShape, attention_score_flops
from nuwa.pruning.masks import gather_tokens
from nuwa.pruning.schedules import Schedule, fit_schedule, layer_at, staged
from nuwa.pruning.selection import strongest, top_tokens

STAGE_DEPTHS = (2.5 / 32, 6.5 / 32, 15.5 / 32)
"""The authors prune on leaving layers 2, 6 and 15 of 32: the middles of these layers, so that halves round to them."""

OF_TOKENS = 576
"""The tokens of an image that the authors' counts refer to: LLaVA-1.5's."""

SPARSEVLM_COUNTS = {
    64: (66, 30, 17),
    96: (238, 48, 26),
    128: (303, 110, 36),
    192: (300, 200, 110),
    OF_TOKENS: (OF_TOKENS,) * 3,
}
"""The authors' kept tokens (recycled ones come on top) at the three stages, by nominal budget."""


def text_raters(hidden: Tensor, visual: Tensor, text: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """How much text tokens (B, T, D) resemble visual ones, and whether each is above the mean: two (B, T).

    ``hidden`` (B, L, D), of which ``visual`` (B, L) marks the image; ``real`` (B, T) is False where a row has fewer
    text tokens.
    """
    share = (hidden.float() @ text.float().mT).masked_fill(~real[:, None], float("-inf")).softmax(-1)
    score = share.masked_fill(~visual[..., None], 0).sum(1) / visual.sum(1, keepdim=True).clamp_min(1)
    mean = score.masked_fill(~real, 0).sum(1, keepdim=True) / real.sum(1, keepdim=True).clamp_min(1)
    return score, real & (score > mean)


def rank_of(attention: Tensor) -> int:
    """The paper's number of tokens: the rank of the raters' attention to the visual tokens (R, n)."""
    return int(torch.linalg.matrix_rank(attention.float()))


def clusters_for(dropped: int) -> tuple[int, int]:
    """How many of ``dropped`` tokens are recycled, and into how many."""
    recycled = int(0.3 * dropped) + 1
    return recycled, recycled // 10 + 1


def kept_before_recycling(total: int, n_tokens: int) -> int:
    """The most kept tokens of ``n_tokens`` that make at most ``total`` with the merged ones, of which one is needed."""
    fitting = (kept for kept in range(total) if kept + clusters_for(n_tokens - kept)[1] <= total)
    return max(fitting, default=total - 1)


def split_recycled(score: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """Which of an image's tokens stay, ascending, and which are recycled, best first, to end with ``total`` of them.

    Scores (..., n), ``total`` < n -> (..., K) and (..., M), which become ``total - K`` clusters.
    """
    keep = kept_before_recycling(total, score.shape[-1])
    recycled, _ = clusters_for(score.shape[-1] - keep)
    best = strongest(score, keep + recycled)
    return best[..., :keep].sort(-1).values, best[..., keep:]


def profile(lists: Mapping[int, Sequence[int]], nominal: float, n_tokens: int, layers: int, recycle: bool) -> Schedule:
    """The counts for a nominal budget of `OF_TOKENS`: the authors' lists, in between interpolated in the logarithm."""
    if nominal < min(lists):
        kept = [nominal / min(lists) * count for count in lists[min(lists)]]
    else:
        low, high = next(pair for pair in pairwise(sorted(lists)) if nominal <= pair[1])
        part = (nominal - low) / (high - low)
        kept = [a ** (1 - part) * b**part for a, b in zip(lists[low], lists[high], strict=True)]
    counts, before = [], n_tokens
    for count in kept:
        keep = max(1, min(round(count * n_tokens / OF_TOKENS), before - 1))
        before = min(before, keep + (clusters_for(before - keep)[1] if recycle else 0))
        counts.append(before)
    return staged(n_tokens, STAGE_DEPTHS, counts, layers)


def find_raters(first: LLMContext) -> Tensor:
    """Raters among the text after the image, chosen once from what enters layer 0: (B, L) bool.

    Where no token is above the mean (a question of one token), all of them rate.
    """
    if "raters" not in first.notes:
        question, visual = first.question, first.visual
        places = question.byte().argsort(dim=1, descending=True, stable=True)[:, : int(question.sum(1).max())]
        real = question.gather(1, places)
        _, above = text_raters(first.hidden, visual, gather_tokens(first.hidden, places), real)
        rates = (above | real & ~above.any(1, keepdim=True)) & visual.any(1, keepdim=True)
        first.notes["raters"] = torch.zeros_like(question).scatter(1, places, rates)
    return first.notes["raters"]


def ratings(context: LLMContext) -> tuple[Tensor, Tensor, Tensor]:
    """Places (Q,) that rate in any row, their attention in the layer before (B, H, Q, L), each row's weights (B, Q).

    Their number is the question's, so that the device has to be asked for it.
    """
    first = context.first
    by_rank = find_raters(first).gather(1, first.text.byte().argsort(dim=1, descending=True, stable=True))
    raters = context.text & by_rank.gather(1, (context.text.cumsum(1) - 1).clamp_min(0))  # text tokens never leave
    queries = raters.any(0).nonzero()[:, 0]
    weight = raters[:, queries].float()
    # a rater's place can be padding in another row, whose attention is not a number there
    rows = context.previous.attention(queries).masked_fill(weight[:, None, :, None] == 0, 0)
    return queries, rows, weight / weight.sum(1, keepdim=True).clamp_min(1)


class ListedPruner(Pruner):
    """Base of methods that follow their authors' ``lists`` of counts, by nominal budget."""

    lists: ClassVar[Mapping[int, Sequence[int]]]
    counting: str
    recycle: bool = False

    def schedule(self, n_tokens: int, layers: int) -> Schedule:
        """Counts of the three stages: those of the authors' nominal budget, or those that enter the budget."""
        target = self.budget.tokens(n_tokens)
        if target == n_tokens:
            return Schedule(n_tokens)

        def make(nominal: float) -> Schedule:
            return profile(self.lists, nominal, n_tokens, layers, self.recycle)

        if self.counting == "authors":
            return make(target * OF_TOKENS / n_tokens)
        best, floor = fit_schedule(make, target, layers, high=OF_TOKENS), make(0).average(layers)
        reachable = f"its first layers see all {n_tokens} tokens, so that it needs {floor:.1f} or more"
        return self.reached(best, target, layers, reachable)


@dataclass
class SparseVLM(ListedPruner):
    """Keep what the raters among the question's tokens attend to most, at three stages, and merge some of the rest.

    ``recycle`` merges clusters of dropped tokens; ``tie_noise`` adds the release's 1e-6 of noise to their densities.
    The counts follow the authors' lists. ``counting: authors`` takes the budget as they do: 64, 96, 128, 192 of 576
    give their lists exactly, whose average they count on leaving layers; tokens entering layers are more (82 for 64,
    206 for 192). ``entering`` scales the lists until the budget is met. ``adaptive`` is the paper's rule: as many
    tokens stay at a stage as the raters' attention has rank, recycled ones on top; it needs budget=full, and the image
    code has lists in its place. Recycled tokens take the place of their cluster's centre, which matters only where
    original ids are kept.
    """

    recycle: bool = True
    counting: Literal["entering", "authors"] = "entering"
    adaptive: bool = False
    tie_noise: bool = False

    name: ClassVar[str] = "sparsevlm"
    lists: ClassVar[Mapping[int, Sequence[int]]] = SPARSEVLM_COUNTS
    native_position: ClassVar[str] = "perc"
    needs: ClassVar[Set[str]] = {"previous", "first"}
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="arXiv 2410.04417",
        source="Gumpest/SparseVLMs@26a5f48",
        signal="attention of question tokens that resemble the image",
        merges=True,
        text_aware=True,
        counts="authors' lists, scaled to the average; as they are by `counting=authors`",
        nominal=Schedule(576, ((3, 82), (7, 32), (16, 18))),
    )

    @property
    def counts_by_itself(self) -> bool:
        return self.adaptive

    def schedule(self, n_tokens: int, layers: int) -> Schedule:
        """Counts of the three stages; under ``adaptive``, which refuses a budget, upper bounds."""
        if not self.adaptive:
            return super().schedule(n_tokens, layers)
        if not self.budget.full:
            raise BudgetError(f"pruner {self.name}: with pruner.adaptive=true the image decides; use budget=full")
        return Schedule(n_tokens, tuple({layer_at(depth, layers): n_tokens for depth in STAGE_DEPTHS}.items()))

    def prune_llm(self, context: LLMContext, keep: Tensor) -> LLMDecision:
        _, rows, weight = ratings(context)
        rows = rows.mean(1)
        context.scores["score"] = (weight[:, None] @ rows)[:, 0]
        score, hidden = context.scores["score"].flatten(), context.hidden.flatten(0, 1)
        width, device = context.image.shape[1], hidden.device
        if self.adaptive:
            keep = self._adaptive_counts(context, rows, weight, keep)
        order = torch.arange(width, device=device).repeat(len(context.image))
        kept, members = torch.zeros_like(order, dtype=torch.bool), torch.full_like(order, -1)
        for images, places, total in context.images_alike(keep):
            stay, slots, recycled, joins = self._choose(context, images, places, score[places], total)
            left = torch.cat([stay, slots], 1).flatten()
            kept = kept.index_fill(0, left, True)
            order = order.index_copy(0, left, places[:, :total].flatten() % width)
            members = members.index_copy(0, stay.flatten(), stay.flatten() % width)
            members = members.index_copy(0, recycled.flatten(), slots.gather(1, joins).flatten() % width)
            if slots.shape[1]:
                means = cluster_means(hidden[recycled].float(), joins, slots.shape[1])
                hidden = hidden.index_copy(0, slots.flatten(), means.flatten(0, 1).to(hidden.dtype))
        shape = context.image.shape
        return LLMDecision(kept.view(shape), hidden.view_as(context.hidden), order.view(shape), members.view(shape))

    def _adaptive_counts(self, context: LLMContext, rows: Tensor, weight: Tensor, keep: Tensor) -> Tensor:
        """As many tokens of each image as the raters' attention has rank, and those that recycling makes: (B, I)."""
        counts = torch.zeros_like(keep)
        for row, ordinal, mine in context.each_image():
            rank = rank_of(rows[row, weight[row] > 0][:, mine])
            merged = clusters_for(len(mine) - rank)[1] if self.recycle else 0
            counts[row, ordinal] = min(len(mine), rank + merged)
        return counts

    def _choose(
        self, context: LLMContext, images: Sequence[tuple[int, int]], places: Tensor, score: Tensor, total: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of images at ``places`` (G, n): those that stay, those that clusters take, those recycled, their cluster."""
        if not self.recycle or total >= places.shape[1]:
            nobody = places[:, :0]
            return places.gather(1, top_tokens(score, total)), nobody, nobody, nobody
        stay, recycled = (places.gather(1, index) for index in split_recycled(score, total))
        points, noise = context.hidden.flatten(0, 1)[recycled].float(), None
        if self.tie_noise:
            draws = [torch.rand(points.shape[1], generator=context.generator(*image, self.seed)) for image in images]
            noise = 1e-6 * torch.stack(draws).to(points.device)
        centres, joins = density_clusters(points, [total - stay.shape[1]] * len(images), noise=noise)
        return stay, recycled.gather(1, centres), recycled, joins

    def metric_flops(self, n_tokens: int, shape: ModelShape) -> float:
        """One attention row per stage (the number of raters depends on the question) and all pairs of the recycled."""
        schedule, total = self.schedule(n_tokens, shape.layers), 0.0
        for before, count in zip(schedule.before_stages(), schedule.stages(schedule.vision).values(), strict=True):
            recycled = clusters_for(before - count)[0] if self.recycle else 0
            total += attention_score_flops(1, before, shape.hidden) + recycled**2 * shape.hidden
        return total
