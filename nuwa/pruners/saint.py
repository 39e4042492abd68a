"""SAINT (arXiv 2503.11549; code ArmenJeddi/saint, commit baaff952): drop what many neighbours could stand for.

On leaving each of ten layers of the LLM, even tokens are compared with odd ones by their keys. An even token that is
very similar to many odd ones may leave; all odd ones stay, so that at most half leave at a time.

Shape letters: R images, n their tokens, B images of the vision stage, N tokens of a view, d head width.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from nuwa.pruners.base import LLMContext, MethodInfo, Pruner, Tap, VisionContext, VisionDecision, require
from nuwa.pruners.image_rows import ImageRows
from nuwa.pruners.visionzip import key_metric
from nuwa.pruning.budget import BudgetError, Dial
from nuwa.pruning.flops import ModelShape, attention_score_flops, cosine_flops
from nuwa.pruning.masks import gather_tokens
from nuwa.pruning.schedules import Schedule, fit_schedule, layer_at, staged
from nuwa.pruning.selection import top_tokens

STAIRS = {"late": (8 / 32, 17 / 32), "early": (2 / 32, 11 / 32)}
"""First and last layer that is entered with fewer tokens: the authors', and one for budgets that these cannot reach."""


def descending(n_tokens: int, share: float, stair: str, layers: int) -> Schedule:
    """At each layer of a stair about ``share`` of the tokens stays, one or more."""
    first, last = (layer_at(depth, layers) for depth in STAIRS[stair])
    counts = [n_tokens]
    for _ in range(first, last + 1):
        counts.append(max(1, round(counts[-1] * share)))
    return staged(n_tokens, [layer / layers for layer in range(first, last + 1)], counts[1:], layers)


def vote(metric: Tensor, there: Tensor, threshold: float, sharpness: float) -> tuple[Tensor, Tensor]:
    """Votes for each token to leave, and what it is ranked by, the highest first: two (R, n), of metric (R, n, d).

    Odd tokens vote on even ones and even ones on odd: a cosine that reaches the threshold is a vote. Tokens with votes
    rank by their number and how far above the threshold their mean is, the others by their mean cosine. Tokens that are
    not ``there`` (R, n) do not vote and rank last.
    """
    direction = functional.normalize(metric.float(), dim=-1)
    even, odd = direction[:, ::2], direction[:, 1::2]
    sides = [(even @ odd.mT, there[:, ::2], there[:, None, 1::2]), (odd @ even.mT, there[:, 1::2], there[:, None, ::2])]
    votes, value = torch.zeros_like(there, dtype=torch.long), torch.zeros_like(direction[..., 0])
    for first, (cosine, asked, voter) in enumerate(sides):
        votes[:, first::2], value[:, first::2] = poll(cosine, voter, threshold, sharpness)
        votes[:, first::2] *= asked
    return votes, value.masked_fill(~there, float("-inf"))


def poll(cosine: Tensor, voter: Tensor, threshold: float, sharpness: float) -> tuple[Tensor, Tensor]:
    """Votes and ranking values (R, a) of tokens with ``cosine`` (R, a, b) to those that vote (R, 1, b)."""
    above = (cosine >= threshold) & voter
    votes = above.sum(-1)
    excess = (cosine * above).sum(-1) / votes.clamp(min=1) - threshold
    mean = (cosine * voter).sum(-1) / voter.sum(-1).clamp(min=1)
    return votes, torch.where(votes > 0, votes * (sharpness * excess).exp(), mean)


def thin_by_likeness(metric: Tensor, keep: int) -> Tensor:
    """The ``keep`` of N tokens (B, N, d) that are left after rounds in which those most like all others leave: (B, K).

    A sixteenth of what is left goes in each round.
    """
    direction = functional.normalize(metric.float(), dim=-1)
    index = torch.arange(metric.shape[1], device=metric.device).expand(len(metric), -1)
    while index.shape[1] > keep:
        left = gather_tokens(direction, index)
        likeness = (left @ left.sum(1)[..., None])[..., 0]
        drop = min(max(1, index.shape[1] // 16), index.shape[1] - keep)
        index = index.gather(1, top_tokens(-likeness, index.shape[1] - drop))
    return index


@dataclass
class Saint(Pruner):
    """Drop even tokens that many odd ones resemble, on leaving ten layers of the LLM.

    A token is a vote where the cosine reaches ``threshold``; ranks grow with ``sharpness``. Published is ``adaptive``:
    at each layer as many leave as have ``votes`` votes or more, so that each image decides on its numbers, which needs
    budget=full. Otherwise the budget is met: the same share of the tokens leaves at each layer, ranked the same way.
    Where the even ones do not suffice (in shallow models), odd ones follow, on which even ones vote.
    ``ladder`` places the layers: ``late`` the authors' 7 to 16 of 32, ``early`` 1 to 10, ``auto`` late where it
    reaches. The release takes its window one token too late, so that it protects an image's first token and can drop a
    text token; here text stays.

    ``mode: tower`` is what the released LLaVA does in layer 19 of its vision tower: in rounds, the tokens most like all
    others leave. Here they leave behind the tower, whose last layers still see them.
    """

    mode: Literal["llm", "tower"] = "llm"
    ladder: Literal["auto", "late", "early"] = "auto"
    threshold: float = 0.83
    votes: int = 5
    sharpness: float = 10.0
    adaptive: bool = False

    name: ClassVar[str] = "saint"
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="arXiv 2503.11549",
        source="ArmenJeddi/saint@baaff952",
        signal="similarity of keys, even tokens against odd ones",
        counts="ours: solved for the average; theirs by `adaptive=true`",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.votes >= 1, "votes", "1 or more", self.votes)
        require(not (self.adaptive and self.mode == "tower"), "adaptive", "false with pruner.mode=tower", self.adaptive)

    @property
    def taps(self) -> Mapping[str, Tap]:
        return {"keys": Tap("keys", layer=20 / 24), "heads": Tap("cls_attention")} if self.mode == "tower" else {}

    @property
    def needs(self) -> Set[str]:
        return {"previous"}

    @property
    def counts_by_itself(self) -> bool:
        return self.adaptive

    @property
    def dial(self) -> Dial | None:
        return Dial("threshold", fewest=-1.0, most=1.01) if self.adaptive else None

    @property
    def prunes_vision(self) -> bool:
        """Behind the tower."""
        return self.mode == "tower"

    @property
    def prunes_llm(self) -> bool:
        """Inside the LLM."""
        return self.mode == "llm"

    def schedule(self, n_tokens: int, layers: int) -> Schedule:
        """One share for all stages; under ``adaptive``, which refuses a budget, upper bounds."""
        if self.mode == "tower":
            return super().schedule(n_tokens, layers)
        if self.adaptive:
            if not self.budget.full:
                raise BudgetError(f"pruner {self.name}: with pruner.adaptive=true the image decides; use budget=full")
            stair = STAIRS["early" if self.ladder == "early" else "late"]
            first, last = (layer_at(depth, layers) for depth in stair)
            return Schedule(n_tokens, tuple((layer, n_tokens) for layer in range(first, last + 1)))
        target = self.budget.tokens(n_tokens)
        floors = {stair: descending(n_tokens, 0, stair, layers).average(layers) for stair in STAIRS}
        halves = descending(n_tokens, 0.5, "late", layers).average(layers)
        ladder = self.ladder if self.ladder != "auto" else "late" if halves <= target else "early"
        best = fit_schedule(lambda share: descending(n_tokens, share, ladder, layers), target, layers)
        reachable = ", ".join(f"ladder={stair} needs {floor:.1f} or more" for stair, floor in floors.items())
        return self.reached(best, target, layers, reachable)

    def prune_vision(self, context: VisionContext, keep: int) -> VisionDecision:
        return VisionDecision(thin_by_likeness(key_metric(context.taps["keys"], context.taps["heads"].shape[1]), keep))

    def prune_llm(self, context: LLMContext, keep: Tensor) -> Tensor:
        rows, before = ImageRows.of(context), context.previous
        metric = key_metric(rows.gather(before.keys()), before.kv_heads)
        votes, value = vote(metric, rows.there, self.threshold, self.sharpness)
        leaving = rows.there.sum(1) - keep.flatten()
        if self.adaptive:
            leaving = (votes[:, ::2] >= self.votes).sum(1)
        order = value.argsort(dim=1, descending=True, stable=True)
        order = order.gather(1, (order % 2).argsort(dim=1, stable=True))  # even ones first
        order = order.gather(1, (~rows.there.gather(1, order)).byte().argsort(dim=1, stable=True))
        return rows.mark(order.argsort(dim=1) >= leaving[:, None])

    def metric_flops(self, n_tokens: int, shape: ModelShape) -> float:
        """Each stage: a quarter of all pairs, one head wide; in the tower a sum and a product per round."""
        schedule = self.schedule(n_tokens, shape.layers)
        if self.mode == "llm":
            return sum(cosine_flops(before / 2, shape.head_dim) for before in schedule.before_stages())
        flops = attention_score_flops(1, n_tokens, shape.vision_hidden)
        while n_tokens > schedule.vision:
            flops += attention_score_flops(1, n_tokens, shape.head_dim)
            n_tokens -= min(max(1, n_tokens // 16), n_tokens - schedule.vision)
        return flops
