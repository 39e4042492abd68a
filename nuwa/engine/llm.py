"""The LLM stage: shows a pruner what enters a decoder layer and removes the tokens that it drops.

If a model is spread over several GPUs, everything here happens on the one that holds the embeddings. Layers and
`nuwa.pruning.scores` move states to their weights.

Shape letters: B rows (prompts), L tokens, P tokens that go on, D width.
"""

from __future__ import annotations

import functools
from dataclasses import replace

import torch
from torch import Tensor

from nuwa.engine.decisions import row_lengths, with_text
from nuwa.engine.state import Step, rotary_embeddings
from nuwa.models.base import Family
from nuwa.pruners.base import LLMContext, LLMDecision, Pruner
from nuwa.pruning.masks import gather_tokens
from nuwa.pruning.scores import llm_attention_rows, llm_keys, rotary_kernel
from nuwa.pruning.segments import Prompt, Segment


def context_at(
    adapter: Family, step: Step, layer: int, hidden: Tensor, segment: Segment, rotary: tuple[Tensor, Tensor]
) -> LLMContext:
    """What a method may see of the input ``hidden`` (B, L, D) of a layer and its ``rotary`` embeddings.

    Where rows share a prefix, ``hidden`` and ``rotary`` are those of what stands behind it.
    """
    prompt, module = step.state.prompt, adapter.layers[layer]
    if step.split is not None and segment is step.called_with:
        hidden = step.split.whole(layer, hidden)
        rotary = rotary_embeddings(adapter.language_model, hidden, segment.ids)
    hidden, cos, sin = (x.to(segment.image.device) for x in (hidden, *rotary))
    rotary, (_, newline) = (cos, sin), prompt.newlines(segment)
    return LLMContext(
        layer=layer,
        hidden=hidden,
        image=segment.image.masked_fill(newline, -2),
        token=segment.token,
        valid=segment.valid,
        ids=[[plan.id for plan in row] for row in prompt.rows],
        attention=functools.partial(llm_attention_rows, adapter.queries_keys, module, hidden, rotary, segment.valid),
        keys=functools.partial(llm_keys, adapter.queries_keys, module, hidden, rotary),
        rotary_kernel=functools.partial(rotary_kernel, rotary),
        final_norm=adapter.final_norm,
        layouts=[[plan.layout for plan in row] for row in prompt.rows],
        earlier={name: c for name, c in (("previous", step.previous), ("first", step.first)) if c is not None},
    )


def prune_at(
    pruner: Pruner, step: Step, context: LLMContext, segment: Segment, strategy: str
) -> tuple[Segment, Tensor]:
    """The tokens that go on from a layer, and their states (B, P, D)."""
    layer, prompt, images, input_ids = context.layer, step.state.prompt, step.images, step.input_ids
    assert images is not None and input_ids is not None  # a prefill has both
    planned = step.stages[layer]
    decision = images.recall(context, input_ids, segment)
    if decision is None:
        decision = with_text(pruner, context, pruner.prune_llm(context, planned.to(segment.image.device)))
        decision = close_rows(prompt, segment, decision)
        images.remember(layer, input_ids, segment, decision)
    lengths = row_lengths(pruner, context, decision, planned)
    narrower, places = prompt.narrow(segment, decision.keep, lengths, layer, strategy, decision.order)
    step.state.segments.append(narrower)
    return narrower, gather_tokens(context.hidden if decision.hidden is None else decision.hidden, places)


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
        return replace(decision, keep=keep | closed)
    closed &= ~_reordered(segment, keep & (line >= 0), decision.order, prompt.images)
    order = torch.where(newline, 2 * _last_key(line, keep, decision.order, prompt.whole.length) + 1, 2 * decision.order)
    return replace(decision, keep=keep | closed, order=order)


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
