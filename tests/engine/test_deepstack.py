"""Qwen3-VL's deepstack planes follow the tokens that are left, and merge as they merge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from helpers.families import FAMILIES
from helpers.families_qwen import moved, places_of, plain_mrope_decode, plain_mrope_layer
from helpers.family import generate
from helpers.support import Fixed, Merging, kept_tokens

import nuwa
from nuwa.pruners.base import LLMDecision, Pruner, VisionDecision

FAMILY = FAMILIES["qwen3_vl"]
GRID = FAMILY.sizes[0]
COUNT = GRID[0] * GRID[1]
LAST = {"output_logits": True, "return_dict_in_generate": True}


def features_and_planes(number=0):
    """Projected features (N, H) of a picture and its planes (3, N, H)."""
    with torch.no_grad():
        output = FAMILY.model().model.get_image_features(**FAMILY.pictures(number))
    return output.pooler_output[0], torch.stack([plane[0] for plane in output.deepstack_features])


@pytest.mark.parametrize("layers", [(), (1,), (2,), (1, 2), (3, 4)])
def test_each_kept_token_is_given_its_own_rows(layers):
    """What is added between two layers, against the planes of an unpruned run."""
    model, inputs, (_, planes) = FAMILY.model(), FAMILY.inputs("middle"), features_and_planes()
    begin, left, entered = FAMILY.ids("middle").index(4), {}, {}
    with torch.no_grad(), nuwa.prune(model, Fixed(3, layers)) as session:
        handles = [
            handle
            for n, layer in enumerate(model.model.language_model.layers)
            for handle in (
                layer.register_forward_hook(lambda m, args, output, n=n: left.update({n: output[0]})),
                layer.register_forward_pre_hook(lambda m, args, n=n: entered.update({n: args[0][0]})),
            )
        ]
        model(**inputs)
        for handle in handles:
            handle.remove()
    kept = {layer: tokens for layer, tokens, _ in session.report().images[0].stages}
    tokens = kept[0]
    for n in range(5):
        before, tokens = tokens, kept.get(n + 1, tokens)
        stay = [begin + before.index(token) for token in tokens]
        stay = [*range(begin), *stay, *range(begin + len(before), len(left[n]))]
        added = entered[n + 1] - left[n][stay]
        expected = torch.zeros_like(added)
        if n < len(planes):
            expected[begin : begin + len(tokens)] = planes[n, tokens]
            assert planes[n].std() > 0.1
        torch.testing.assert_close(added, expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("layers", [(1,), (2,), (1, 2), (3,), (1, 4)])
@pytest.mark.parametrize("position", ["pesp", "perc"])
def test_cached_decoding_equals_a_loop_without_hooks_or_cache(layers, position):
    model, inputs = FAMILY.model(), FAMILY.inputs("middle")
    stages = {layer: _fixed_stage(stage) for stage, layer in enumerate(layers, 2)}
    pictures, keep = FAMILY.pictures(0), [kept_tokens(COUNT, 3, 1)]
    tokens, logits = plain_mrope_decode(model, FAMILY.ids("middle"), pictures, [GRID], keep, stages, position, 5)
    out = generate(model, inputs, Fixed(3, layers), position, max_new_tokens=5, **LAST)
    torch.testing.assert_close(torch.cat(out.logits), logits, atol=3e-6, rtol=0)
    assert out.sequences[0, inputs["input_ids"].shape[1] :].tolist() == tokens


def _fixed_stage(stage):
    allowed = kept_tokens(COUNT, 3, stage)
    return lambda hidden, entries: [i for i, (_, image, n) in enumerate(entries) if image < 0 or n in allowed]


@dataclass
class Pairs(Pruner):
    """Of each two tokens the first stays and becomes their mean; ``weighted``: a quarter of it, three of the other."""

    weighted: bool = False

    name: ClassVar[str] = "pairs"
    counts_by_itself: ClassVar[bool] = True

    def prune_vision(self, context, keep):
        images, count = context.features.shape[:2]
        kept, members = torch.arange(0, count - 1, 2), (torch.arange(count) // 2).clamp(max=(count - 1) // 2 - 1)
        own = members[:, None] == torch.arange(len(kept))
        weights = torch.where(torch.arange(count)[:, None] % 2 == 0, 0.25, 0.75) * own if self.weighted else own.float()
        weights = (weights / weights.sum(0)).T.expand(images, -1, -1)
        made = weights @ context.features
        return VisionDecision(
            kept.expand(images, -1),
            made,
            members=members.expand(images, -1),
            weights=weights if self.weighted else None,
        )


@torch.no_grad()
def by_hand(vectors, planes, places, stage=None, choose=None):
    """Last logits of a loop over layers: planes (3, L, H) are added after theirs. ``choose`` cuts all at a stage."""
    model = FAMILY.model()
    lm = model.model.language_model
    for n, layer in enumerate(lm.layers):
        if n == stage:
            vectors, planes, places = choose(vectors, planes, places)
        vectors = plain_mrope_layer(lm, layer, vectors, places)
        vectors = vectors + planes[n] if n < len(planes) else vectors
    return model.lm_head(lm.norm(vectors[-1]))


def laid_out(features, planes, kept):
    """Vectors, planes and places of the tokens ``kept`` of the picture of "middle" between their text."""
    ids = FAMILY.ids("middle")
    whole, text = places_of(ids, [GRID]), iter([token for token in ids if token != 4])
    entries = [entry for entry in whole if entry[1] < 0 or entry[2] in kept]
    embed = FAMILY.model().model.language_model.embed_tokens
    row = {token: number for number, token in enumerate(kept)}
    with torch.no_grad():
        vectors = [embed(torch.tensor(next(text))) if i < 0 else features[row[n]] for _, i, n in entries]
        none = torch.zeros_like(vectors[0])
        rows = [torch.stack([none if i < 0 else plane[row[n]] for _, i, n in entries]) for plane in planes]
    return torch.stack(vectors), torch.stack(rows), moved("pesp", entries, [GRID], 0)


@pytest.mark.parametrize("weighted", [False, True], ids=["members", "weights"])
@pytest.mark.parametrize("deepstack", ["merged", "kept"])
def test_tokens_merged_before_the_llm_merge_their_planes(weighted, deepstack):
    model, (features, planes) = FAMILY.model(), features_and_planes()
    first, second = (0.25, 0.75) if weighted else (0.5, 0.5)
    kept = list(range(0, COUNT - 1, 2))

    def merged(values):
        made = first * values[0:-1:2] + second * values[1::2]
        shares = (values[-3:] * torch.tensor([first, second, first])[:, None]).sum(0) / (2 * first + second)
        return torch.cat([made[:-1], shares[None]])  # the last is of three: the number of tokens is odd

    rows = [merged(plane) if deepstack == "merged" else plane[kept] for plane in planes]
    expected = by_hand(*laid_out(merged(features), rows, kept))
    with torch.no_grad(), nuwa.prune(model, Pairs(weighted), "pesp", deepstack=deepstack):
        found = model(**FAMILY.inputs("middle")).logits[0, -1]
    torch.testing.assert_close(found, expected, atol=3e-6, rtol=0)


@dataclass
class MergingMembers(Merging):
    """As `Merging`, and says who went where."""

    def prune_llm(self, context, keep):
        decision = super().prune_llm(context, keep)
        members = torch.arange(context.hidden.shape[1]).repeat(len(context.hidden), 1)
        for row, _, mine in context.each_image():
            members[row, mine[1::2]] = mine[1]
        return LLMDecision(decision.keep, decision.hidden, decision.order, members)


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("deepstack", ["merged", "kept"])
def test_tokens_merged_inside_the_llm_merge_what_is_still_to_be_added(stage, deepstack):
    model, (features, planes) = FAMILY.model(), features_and_planes()
    begin = FAMILY.ids("middle").index(4)
    even, odd = range(begin, begin + COUNT, 2), range(begin + 1, begin + COUNT, 2)

    def choose(vectors, planes, places):
        order = [*range(begin), *even, odd[0], *range(begin + COUNT, len(vectors))]
        vectors, planes = vectors.clone(), planes.clone()
        vectors[odd[0]] = vectors[list(odd)].mean(0)
        if deepstack == "merged":
            planes[:, odd[0]] = planes[:, list(odd)].mean(1)
        return vectors[order], planes[:, order], [places[i] for i in order]

    expected = by_hand(*laid_out(features, planes, list(range(COUNT))), stage, choose)
    with torch.no_grad(), nuwa.prune(model, MergingMembers((stage,)), "pesp", deepstack=deepstack):
        found = model(**FAMILY.inputs("middle")).logits[0, -1]
    torch.testing.assert_close(found, expected, atol=3e-6, rtol=0)


@pytest.mark.parametrize("layers", [(1,), (1, 2)])
def test_merged_planes_without_a_cache(layers):
    model, inputs = FAMILY.model(), FAMILY.inputs("middle", "two", "last")
    cached = generate(model, inputs, MergingMembers(layers), **LAST)
    again = generate(model, inputs, MergingMembers(layers), use_cache=False, **LAST)
    assert torch.equal(cached.sequences, again.sequences)
    torch.testing.assert_close(torch.stack(cached.logits), torch.stack(again.logits), atol=3e-6, rtol=0)


def test_what_merged_planes_change_is_far_from_the_tolerance():
    results = []
    for deepstack in ("merged", "kept"):
        with torch.no_grad(), nuwa.prune(FAMILY.model(), Pairs(), deepstack=deepstack):
            results.append(FAMILY.model()(**FAMILY.inputs("middle")).logits[0, -1])
    assert (results[0] - results[1]).abs().max() > 1e-3


def test_choices_are_refused_where_there_are_none():
    with pytest.raises(ValueError, match=r"position\.deepstack=both: expected one of merged, kept"):
        nuwa.prune(FAMILY.model(), Pairs(), deepstack="both")
    with pytest.raises(ValueError, match=r"position\.deepstack=kept: llava models have no deepstack planes"):
        nuwa.prune(FAMILIES["llava"].model(), Pairs(), deepstack="kept")
