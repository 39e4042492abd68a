"""The LLM stage: shows a pruner what enters a decoder layer and removes the tokens that it drops.

If a model is spread over several GPUs, everything here happens on the one that holds the embeddings. Layers and
`nuwa.pruning.scores` move states to their weights.

Shape letters: B rows (prompts), P tokens of a prompt, N behind it, Q that go on, D width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from nuwa.engine.call import Rules, Step, deciding, prompt_of
from nuwa.engine.coordinates import reserved, with_coordinates
from nuwa.engine.decisions import row_lengths, unchanged, with_text
from nuwa.models.base import Family
from nuwa.pruners.base import LLMContext, LLMDecision
from nuwa.pruning.followers import add_followers
from nuwa.pruning.masks import gather_tokens
from nuwa.pruning.merging import merge_alike
from nuwa.pruning.prompt import Prompt
from nuwa.pruning.scores import llm_attention_rows, llm_keys, llm_values, rotary_kernel, transition_weights
from nuwa.pruning.segments import Keys, Segment, at_layer


def enter_layer(
    rules: Rules, step: Step, layer: int, hidden: Tensor, kwargs: dict[str, Any]
) -> tuple[Tensor, dict[str, Any]]:
    """Input and arguments of a layer once tokens have left, of its input ``hidden`` (B, P + N, D) and arguments."""
    family, needs = rules.family, rules.pruner.needs
    if step.prefixes and step.split is not None:
        step.split.note(layer, hidden)
    if step.companions:
        hidden, kwargs = family.enter_layer(layer, hidden, kwargs, step.companions)
    if step.narrowed(layer) or family.own_masks or step.calibrated:
        kwargs = kwargs | step.override(family, layer, hidden)
    if layer == 0 and step.stages and "first" in needs:
        step.first = context_at(family, step, layer, hidden, kwargs["position_embeddings"])
    if layer in step.stages:
        context = context_at(family, step, layer, hidden, kwargs["position_embeddings"])
        hidden = prune_at(rules, step, context, hidden)
        kwargs = kwargs | step.override(family, layer, hidden)
    step.previous = None
    if "previous" in needs and layer + 1 in step.stages:
        step.previous = context_at(family, step, layer, hidden, kwargs["position_embeddings"])
    return hidden, kwargs


def leave_block(step: Step, layer: int, entered: Tensor, left: Tensor) -> None:
    """Note what a layer's attention or MLP made of its input, of a prompt in which a stage will ask for it."""
    if step.prefixes or not step.stages or not min(step.stages) - 1 <= layer < max(step.stages):
        return
    valid = at_layer(step.segments, layer).valid
    before, behind = (x[:, : valid.shape[1]].detach().to(valid.device) for x in (entered, left))
    step.transitions[layer] = transition_weights(before, behind, valid) + step.transitions.get(layer, 0)


def context_at(adapter: Family, step: Step, layer: int, hidden: Tensor, rotary: tuple[Tensor, Tensor]) -> LLMContext:
    """What a method may see of the input ``hidden`` (B, P + N, D) of a layer and its ``rotary`` embeddings.

    That is the prompt, not what stands behind it. Where rows share a prefix, ``hidden`` and ``rotary`` are those of
    what stands behind that.
    """
    prompt, module, segment = prompt_of(step), adapter.layers[layer], at_layer(step.segments, layer)
    if step.split is not None and segment is step.called_with[-1]:
        hidden = step.split.whole(layer, hidden)
        rotary = adapter.rotary(adapter.layer_kind(layer), hidden, segment.ids)
    hidden, cos, sin = (x[:, : segment.length].to(segment.image.device) for x in (hidden, *rotary))
    rotary, followers, sees = (cos, sin), segment.follower, sees_at(adapter, layer, segment)
    return LLMContext(
        layer=layer,
        hidden=hidden,
        image=segment.image if followers is None else segment.image.masked_fill(followers, -1),
        token=segment.token,
        valid=segment.valid,
        ids=[[plan.id for plan in row] for row in prompt.rows],
        attention=functools.partial(
            llm_attention_rows, adapter.queries_keys, module, hidden, rotary, segment.valid, sees=sees
        ),
        keys=functools.partial(llm_keys, adapter.queries_keys, module, hidden, rotary),
        values=functools.partial(llm_values, adapter.values, module, hidden),
        rotary_kernel=functools.partial(rotary_kernel, rotary),
        final_norm=adapter.final_norm,
        position_ids=segment.ids,
        frequencies=adapter.frequencies,
        kv_heads=adapter.shape.kv_heads,
        layers=len(adapter.layers),
        transitions=step.transitions,
        layouts=[[plan.layout for plan in row] for row in prompt.rows],
        extras=[[plan.extras for plan in row] for row in prompt.rows],
        earlier={name: c for name, c in (("previous", step.previous), ("first", step.first)) if c is not None},
    )


def sees_at(family: Family, layer: int, segment: Segment) -> Callable[[Tensor], Tensor] | None:
    """What tokens of a prompt see in a layer, None where that is what stands before them."""
    alone = Keys([segment], segment.valid[:, :0], [0, 0])
    return functools.partial(family.sees, family.layer_kind(layer), alone) if family.own_masks else None


def prune_at(rules: Rules, step: Step, context: LLMContext, hidden: Tensor) -> Tensor:
    """The states (B, Q + N, D) that go on from a layer whose input is ``hidden`` (B, P + N, D)."""
    pruner, strategy = rules.pruner, rules.strategy
    layer, prompt, images, segment = context.layer, prompt_of(step), step.images, at_layer(step.segments, context.layer)
    assert images is not None  # a prompt has some
    planned, decision = step.stages[layer], images.decisions.get(layer)
    if decision is None:
        left = reserved(pruner, prompt, planned)
        with deciding(rules.family), unchanged(pruner, context):
            decided = pruner.prune_llm(context, (planned - left).to(segment.image.device))
        decision = with_text(pruner, context, decided)
        if prompt.coordinates is not None:
            score = segment.columns["score"]
            decision = with_coordinates(pruner, prompt.coordinates, context, decision, score, left)
        decision = images.decisions[layer] = with_followers(prompt, segment, decision)
    lengths = row_lengths(pruner, context, decision, planned)
    narrower, places = prompt.narrow(segment, decision.keep, lengths, layer, strategy, decision.order, decision.members)
    step.segments.append(narrower)
    if decision.hidden is not None and decision.members is not None and rules.merges_planes:
        step.companions = {name: merged_with(x, decision.members) for name, x in step.companions.items()}
    step.companions = {name: step.take(x, places) for name, x in step.companions.items()}
    step.transitions = {layer: gather_tokens(x, places) for layer, x in step.transitions.items()}
    states = context.hidden if decision.hidden is None else decision.hidden
    return step.take(torch.cat([states, hidden[:, segment.length :]], 1) if step.tail else states, places)


def merged_with(companion: Tensor, members: Tensor) -> Tensor:
    """A companion (B, P + N, ...) of tokens of which ``members`` (B, P) merged: each has the mean of its own."""
    prompt, behind = companion.split([members.shape[1], companion.shape[1] - members.shape[1]], 1)
    everyone = torch.arange(members.shape[1], device=companion.device).expand(len(companion), -1)
    return torch.cat([merge_alike(prompt, everyone, members, None), behind], 1)


def with_followers(prompt: Prompt, segment: Segment, decision: LLMDecision) -> LLMDecision:
    """A decision about patches with what follows them."""
    if segment.follower is None:
        return decision
    order = torch.arange(segment.length, device=segment.index.device).expand_as(segment.index)
    order = order if decision.order is None else decision.order
    table = segment.follower, segment.columns["group"], segment.image, segment.index
    keep, order = add_followers(decision.keep, order, *table, prompt.whole.length)
    return replace(decision, keep=keep, order=order)
