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
    line, newline = prompt.lines(segment)
    if not bool(newline.any()):
        return decision
    keep = decision.keep & ~newline
    closed = newline & _any_kept(line, keep, prompt.whole.length)
    if decision.order is None:
        return LLMDecision(keep | closed, decision.hidden)
    closed &= ~_reordered(segment, line, keep, decision.order)
    order = torch.where(newline, 2 * _last_key(line, keep, decision.order, prompt.whole.length) + 1, 2 * decision.order)
    return LLMDecision(keep | closed, decision.hidden, order)


def _any_kept(line: Tensor, keep: Tensor, length: int) -> Tensor:
    """(B, L) bool: whether any kept token shares a token's line."""
    alive = torch.zeros(len(line), length + 1, dtype=torch.long, device=line.device)
    return alive.scatter_reduce(1, line + 1, keep.long(), "amax").gather(1, line + 1) > 0


def _last_key(line: Tensor, keep: Tensor, order: Tensor, length: int) -> Tensor:
    """(B, L): the highest sort key among the kept tokens of a token's line, 0 where none is kept."""
    highest = torch.zeros(len(line), length + 1, dtype=order.dtype, device=line.device)
    return highest.scatter_reduce(1, line + 1, order * keep, "amax").gather(1, line + 1)


def _reordered(segment: Segment, line: Tensor, keep: Tensor, order: Tensor) -> Tensor:
    """(B, L) bool: tokens of images whose kept tokens, those with a line, do not rise in the prompt."""
    out = torch.zeros_like(keep)
    for row in range(len(keep)):
        for ordinal in segment.image[row].unique().tolist():
            mine = segment.image[row] == ordinal
            kept = mine & keep[row] & (line[row] >= 0)
            places = segment.index[row, kept][order[row, kept].argsort(stable=True)]
            out[row] |= mine & bool((places.diff() < 0).any())
    return out
