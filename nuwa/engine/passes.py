"""Turns a call of the language model into a pass over the tokens that are left: of a prompt, or of text behind one.

Shape letters: B rows (prompts), L tokens of the call, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, StaticCache

from nuwa.engine import guards
from nuwa.engine.arguments import cache_of, with_cache
from nuwa.engine.call import Call, Rules, Step
from nuwa.engine.conversation import (
    Conversation,
    attach,
    cached_length,
    conversation_of,
    read_text,
    take_in_text,
)
from nuwa.engine.prefix import layers_to_watch, run_prefixes, split_prefixes
from nuwa.models.base import Family
from nuwa.pruning.entering import first_segment, read_prompt
from nuwa.pruning.prompt import Prompt
from nuwa.pruning.segments import Segment, at_layer, model_ids


def read_images(rules: Rules, call: Call, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Open the pass over a prompt with images: the language model's arguments for the tokens that are left.

    Of rows that share prefixes these run first, and the arguments are those of the suffixes.
    """
    family, input_ids = rules.family, call.input_ids
    images, *beside = call.images.values()
    assert input_ids is not None  # the call is about images
    guards.check_window(family)
    embeddings, cache = kwargs["inputs_embeds"], _cache_for(family, kwargs)
    guards.check_not_packed(kwargs.get("position_ids"), call.numbered and call.mask is None, cache is not None, family)
    device = embeddings.device
    conversation = _earlier(family, cache, call.mask, len(embeddings), device)
    guards.check_later_images(rules.calibration, later=conversation is not None)
    length = 0 if conversation is None else conversation.length
    mask = _of_last_query(call.mask, length + embeddings.shape[1]) if isinstance(cache, StaticCache) else call.mask
    valid = _mask(mask, len(embeddings), length, embeddings.shape[1], device)
    ids = family.position_ids(kwargs.get("position_ids"), len(valid), valid.shape[1], device)
    ids = ids + length if length and kwargs.get("position_ids") is None else ids
    behind = images.behind(input_ids, call.drafts, beside)
    asked = valid.shape[1] - behind
    before = () if conversation is None else tuple(conversation.tables)
    prompt = _prompt(rules, call, input_ids[:, :asked], valid[:, :asked], ids[..., :asked], before)
    segment, stages, companions = (
        first_segment(prompt, rules.strategy, device),
        prompt.stages(),
        family.companions(kwargs),
    )
    if stages:
        guards.check_checkpointing(family.layers)
        guards.check_text(rules.pruner, prompt)
    guards.check_cache(cache, family, alike=not stages and rules.calibration == "none")
    given = call.mask is not None
    step = Step(rules.calibration, before, length, valid[:, asked:], given, prompt, [segment], images, stages)
    inputs = step.take(embeddings, segment.index)
    if before:
        guards.check_recurrent(torch.cat([segment.valid, step.new], 1), family)
    recurrent = family.shape.attention is not None  # a state that has read a beginning cannot read padding behind it
    if rules.share and cache is not None and not (before or behind or companions or recurrent or 0 in stages):
        inputs = _share_prefixes(rules, call, step, inputs, cache)
    step.companions = {name: step.take(x, segment.index) for name, x in companions.items()}
    call.step = step
    if cache is not None:
        _open(cache, conversation, step, prompt)
    kwargs = with_cache(family.language_model, family.with_companions(kwargs, step.companions), cache)
    return kwargs | _inputs_of(step, family, inputs.shape[1]) | {"inputs_embeds": inputs}


def _prompt(
    rules: Rules, call: Call, input_ids: Tensor, valid: Tensor, ids: Tensor, before: Sequence[Segment]
) -> Prompt:
    """The prompt of a call: of ``input_ids``, ``valid`` (B, L) and position ids (C, B, L) no token is an answer yet."""
    plans = {kind: one.plans for kind, one in call.images.items()}
    for kind, mine in plans.items():
        rules.kinds[kind].check_prompt(input_ids, [plan.layout.n_tokens for plan in mine])
    input_ids = input_ids.to(valid.device)
    placeholders = {kind: input_ids == one.placeholder_id for kind, one in rules.kinds.items()}
    prompt = read_prompt(placeholders, valid, ids, plans, before, call.numbered)
    guards.check_cells(rules.strategy, prompt)
    return prompt


def read_text_behind(
    rules: Rules, conversation: Conversation, cache: Cache, call: Call, kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Open the pass over text behind a pruned prompt: the language model's arguments with its mask and ids."""
    inputs = kwargs["inputs_embeds"]
    batch, queries = inputs.shape[:2]
    behind = conversation.behind(cache)
    mask, read = call.mask, conversation.length
    if isinstance(cache, StaticCache):
        mask = _of_last_query(mask, read + behind + queries)
    new = _mask(mask, batch, read, behind + queries, inputs.device)
    tables, length, given = conversation.tables, conversation.length, mask is not None
    call.step = step = Step(rules.calibration, tables, length, new, given, conversation.prompt)
    if given and queries > 1:
        guards.check_recurrent(new[:, -queries:], rules.family)
    conversation.inside = True
    return kwargs | _inputs_of(step, rules.family, queries)


def end_pass(step: Step, cache: Cache | None, failed: bool) -> None:
    """The language model has read a pass, or failed to."""
    conversation = conversation_of(cache)
    if conversation is not None:
        conversation.broken |= failed and conversation.inside
        conversation.inside = False
        if not failed and step.before and step.segments and step.prompt is not None:
            conversation.close(step.prompt, step.segments, step.prompt.whole.length)


def in_whole_frame(step: Step, hidden: Tensor) -> Tensor:
    """States of what is left of a prompt, in the frame of the whole one (B, L, D): logits and losses keep its shape."""
    last, prompt = step.segments[-1], step.prompt
    assert prompt is not None  # its segments are there
    end = hidden.shape[1] - step.tail
    if end == last.length and prompt.is_whole_prompt(last):
        return hidden
    whole = prompt.restore(last, hidden[:, :end].to(last.index.device))
    return torch.cat([whole, hidden[:, end:].to(whole.device)], 1) if step.tail else whole


def _inputs_of(step: Step, family: Family, queries: int) -> dict[str, Tensor]:
    # always a mask: without one, Llama reads a jump in the position ids as packed sequences
    step.called_with = step.tables(0)
    if step.before:  # the model's mask is as long as what the first layer with keys has cached
        step.called_with[0] = at_layer(step.before, family.shape.attention_layers[0])
    mask = step.keys(step.called_with).valid.long()
    return {"attention_mask": mask, "position_ids": model_ids(step.position_ids(step.called_with, queries))}


def _of_last_query(mask: Any, length: int) -> Any:
    """The 2-D mask (B, length) in the one (B, 1, Q, K), bool or additive, that generate makes for a static cache."""
    mask = mask["full_attention"] if isinstance(mask, dict) else mask
    if not torch.is_tensor(mask) or mask.dim() != 4:
        return mask
    row = mask[:, 0, -1, :length]
    return row if row.dtype == torch.bool else row == 0


def _mask(mask: Any, batch: int, start: int, length: int, device: torch.device) -> Tensor:
    """(batch, length) bool: which tokens from ``start`` on are real, by the ``mask`` over everything so far."""
    if mask is None:
        return torch.ones(batch, length, dtype=torch.bool, device=device)
    guards.check_mask(mask, batch, start, length)
    return mask[:, start:].to(device).bool()


def _cache_for(family: Family, kwargs: dict[str, Any]) -> Cache | None:
    """The cache of a call, a new one if it wants one and has none."""
    config: Any = family.language_model.config
    cache, wanted = cache_of(kwargs), kwargs.get("use_cache")
    if cache is None and (config.use_cache if wanted is None else wanted):
        return DynamicCache(config=config)
    return cache


def _earlier(family: Family, cache: Cache | None, mask: Any, batch: int, device: torch.device) -> Conversation | None:
    """The conversation that a cache holds, up to its last token."""
    if cache is None or not cached_length(cache):
        return None
    conversation = conversation_of(cache)
    if conversation is None:
        length = cached_length(cache)
        valid = torch.ones(batch, length, dtype=torch.bool, device=device) if mask is None else mask[:, :length] != 0
        return read_text(cache, valid.to(device), family.axes)
    behind = conversation.behind(cache)
    if behind:
        end = conversation.length + behind
        valid = torch.ones(batch, behind, dtype=torch.bool, device=device)
        take_in_text(conversation, valid if mask is None else mask[:, conversation.length : end].to(device).bool())
    return conversation


def _open(cache: Cache, conversation: Conversation | None, step: Step, prompt: Prompt) -> None:
    """Let the cache hold what this step reads: its segments as they become, or the conversation that it continues."""
    if conversation is None:
        conversation = Conversation(prompt, step.segments, prompt.whole.length)
    conversation.inside = True
    attach(cache, conversation)


def _share_prefixes(rules: Rules, call: Call, step: Step, inputs: Tensor, cache: Cache) -> Tensor:
    """Run the prefixes that rows share, if any do; what is left to run of ``inputs`` (B, L, D)."""
    language_model = rules.family.language_model
    # a model that trains may checkpoint its layers, which then ignore the cache
    plain = not language_model.training and rules.calibration == "none" and not rules.family.own_masks
    plain &= "transitions" not in rules.pruner.needs
    split = split_prefixes(step.segments[0], inputs) if plain else None
    if split is None:
        return inputs
    assert isinstance(cache, DynamicCache)  # checked before
    split.watch = layers_to_watch(step.stages, "previous" in rules.pruner.needs)
    prefixes, nothing = split.prefixes, split.prefixes.valid[:, :0]
    call.step = replace(step, new=nothing, segments=[prefixes], stages={}, split=split, prefixes=True)
    call.step.called_with = [prefixes]
    run_prefixes(language_model, split, inputs, cache)
    step.segments[:], step.split = [split.segment], split
    return split.suffix_inputs(inputs)
