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
from nuwa.engine.state import Step
from nuwa.models.base import Family
from nuwa.pruners.base import LLMContext, LLMDecision, Pruner
from nuwa.pruning.followers import add_followers
from nuwa.pruning.masks import gather_tokens
from nuwa.pruning.merging import merge_alike
from nuwa.pruning.scores import llm_attention_rows, llm_keys, llm_values, rotary_kernel
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
        rotary = adapter.rotary(adapter.layer_kind(layer), hidden, segment.ids)
    hidden, cos, sin = (x.to(segment.image.device) for x in (hidden, *rotary))
    rotary, followers = (cos, sin), segment.follower
    return LLMContext(
        layer=layer,
        hidden=hidden,
        image=segment.image if followers is None else segment.image.masked_fill(followers, -1),
        token=segment.token,
        valid=segment.valid,
        ids=[[plan.id for plan in row] for row in prompt.rows],
        attention=functools.partial(llm_attention_rows, adapter.queries_keys, module, hidden, rotary, segment.valid),
        keys=functools.partial(llm_keys, adapter.queries_keys, module, hidden, rotary),
        values=functools.partial(llm_values, adapter.values, module, hidden),
        rotary_kernel=functools.partial(rotary_kernel, rotary),
        final_norm=adapter.final_norm,
        position_ids=segment.ids,
        frequencies=adapter.frequencies,
        kv_heads=adapter.shape.kv_heads,
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
        decision = with_followers(prompt, segment, decision)
        images.remember(layer, input_ids, segment, decision)
    lengths = row_lengths(pruner, context, decision, planned)
    narrower, places = prompt.narrow(segment, decision.keep, lengths, layer, strategy, decision.order, decision.members)
    step.state.segments.append(narrower)
    step.companions = {name: carried(x, step, decision, places) for name, x in step.companions.items()}
    return narrower, gather_tokens(context.hidden if decision.hidden is None else decision.hidden, places)


def carried(companion: Tensor, step: Step, decision: LLMDecision, places: Tensor) -> Tensor:
    """A companion (B, L, ...) of the tokens that go on, at ``places`` (B, P); of merged ones the mean."""
    if step.merges_companions and decision.hidden is not None and decision.members is not None:
        everyone = torch.arange(companion.shape[1], device=companion.device).expand(len(companion), -1)
        companion = merge_alike(companion, everyone, decision.members, None)
    return gather_tokens(companion, places.to(companion.device))


def with_followers(prompt: Prompt, segment: Segment, decision: LLMDecision) -> LLMDecision:
    """A decision about patches with what follows them."""
    if segment.follower is None:
        return decision
    order = torch.arange(segment.length, device=segment.index.device).expand_as(segment.index)
    order = order if decision.order is None else decision.order
    table = segment.follower, segment.columns["group"], segment.image, segment.index
    keep, order = add_followers(decision.keep, order, *table, prompt.whole.length)
    return replace(decision, keep=keep, order=order)
