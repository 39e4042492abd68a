"""SparseVLM+ (SparseVLM's second version; code Gumpest/SparseVLMs, commit 26a5f48, V2_0): better ratings, no recycling.

As SparseVLM, but the raters' attention is corrected for distance, only the heads that look at the image most are
heard, dropped tokens are gone, and tokens keep their ids.

Shape letters as in `base`; Q raters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from nuwa.pruners.base import LLMContext, MethodInfo, require
from nuwa.pruners.sparsevlm import OF_TOKENS, ListedPruner, ratings
from nuwa.pruning.flops import ModelShape, attention_score_flops
from nuwa.pruning.schedules import Schedule
from nuwa.pruning.selection import strongest

SPARSEVLM_PLUS_COUNTS = {
    64: (66, 34, 20),
    96: (246, 54, 28),
    128: (238, 108, 60),
    192: (300, 200, 118),
    OF_TOKENS: (OF_TOKENS,) * 3,
}
"""The authors' kept tokens at the three stages, by nominal budget."""


def looking_heads(rows: Tensor, weight: Tensor, visual: Tensor, count: int) -> Tensor:
    """The ``count`` heads whose raters look at the image most, as ones: (B, H, Q, L), (B, Q), (B, L) -> (B, H)."""
    mass = (rows * weight[:, None, :, None] * visual[:, None, None]).sum((2, 3))
    return torch.zeros_like(mass).scatter_(1, strongest(mass, count), 1.0)


@dataclass
class SparseVLMPlus(ListedPruner):
    """Keep what the raters attend to most in the heads that look at the image most, at three stages.

    ``heads`` is the share of heads that is heard, 14 of LLaVA-1.5-7B's 32.
    ``correct_distance`` divides attention weights by what rotary embeddings alone make of a distance, the product of
    all-ones queries and keys. As released, that product is not kept from zero, and a negative one turns a rating
    around. ``counting`` as in ``SparseVLM``.
    """

    counting: Literal["entering", "authors"] = "entering"
    heads: float = 14 / 32
    correct_distance: bool = True

    name: ClassVar[str] = "sparsevlm_plus"
    lists: ClassVar[Mapping[int, Sequence[int]]] = SPARSEVLM_PLUS_COUNTS
    needs: ClassVar[Set[str]] = {"previous", "first"}
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="arXiv 2410.04417",
        source="Gumpest/SparseVLMs@26a5f48",
        signal="attention of question tokens in the heads that look at the image, corrected for distance",
        text_aware=True,
        counts="authors' lists, scaled to the average; as they are by `counting=authors`",
        nominal=Schedule(576, ((3, 66), (7, 34), (16, 20))),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.heads <= 1, "heads", "a share in (0, 1]", self.heads)

    def prune_llm(self, context: LLMContext, keep: Tensor) -> Tensor:
        queries, rows, weight = ratings(context)
        if self.correct_distance:
            rows = rows / context.previous.rotary_kernel(queries)[:, None]
        rows = rows.masked_fill(~context.visual[:, None, None], 0)  # what text makes of text is not asked
        heard = looking_heads(rows, weight, context.visual, max(1, round(self.heads * rows.shape[1])))
        score = torch.einsum("bhql,bq,bh->bl", rows, weight, heard)
        return context.top_k(score, keep)

    def metric_flops(self, n_tokens: int, shape: ModelShape) -> float:
        """One attention row per stage; the number of raters depends on the question."""
        stages = self.schedule(n_tokens, shape.layers).before_stages()
        return sum(attention_score_flops(1, count, shape.hidden) for count in stages)
