"""Newlines between the rows of an image leave the LLM together with the last token of their row. Pure functions.

Shape letters: B rows (prompts), L tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nuwa.pruners.base import LLMDecision
from nuwa.pruning.segments import Prompt, Segment


def close_rows(prompt: Prompt, segment: Segment, decision: LLMDecision) -> LLMDecision:
    """Add to a decision about patches the newlines of every row that still has one.

    A newline follows the last token of its row. An image whose kept tokens are out of raster order has no rows any
    more: its newlines leave.
    """
    if prompt.closed_by is None:
        return decision
    line, newline = prompt.newlines(segment)
    keep = decision.keep & ~newline
    closed = newline & (_last_key(line, keep, keep.long(), prompt.whole.length) > 0)
    if decision.order is None:
        return LLMDecision(keep | closed, decision.hidden)
    closed &= ~_reordered(segment, keep & (line >= 0), decision.order, prompt.images)
    order = torch.where(newline, 2 * _last_key(line, keep, decision.order, prompt.whole.length) + 1, 2 * decision.order)
    return LLMDecision(keep | closed, decision.hidden, order)


def _last_key(line: Tensor, keep: Tensor, key: Tensor, length: int) -> Tensor:
    """(B, L): the highest key (B, L) among the kept tokens of a token's line, 0 where none is kept."""
    highest = torch.zeros(len(line), length + 1, dtype=key.dtype, device=line.device)
    return highest.scatter_reduce(1, line + 1, key * keep, "amax").gather(1, line + 1)


def _reordered(segment: Segment, kept: Tensor, order: Tensor, images: int) -> Tensor:
    """(B, L) bool: tokens of images whose ``kept`` (B, L) tokens, those with a line, do not rise in the prompt."""
    out = torch.zeros_like(kept)
    by_order = order.argsort(dim=1, stable=True)
    for ordinal in range(images):
        mine = segment.image == ordinal
        places = torch.where(mine & kept, segment.index, -1).gather(1, by_order)
        falls = (places >= 0) & (places < places.cummax(1).values)
        out |= mine & falls.any(1, keepdim=True)
    return out
