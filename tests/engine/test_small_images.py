"""Rows and images of which little or nothing leaves: tiny grids, images kept whole, rows longer than any image."""

from __future__ import annotations

import pytest
import torch
from helpers.families import FAMILIES
from helpers.families_qwen import Qwen
from helpers.methods import METHODS, UNSUITED, pruner_for, spending
from helpers.support import Fixed, batch, pixels, prompt

import nuwa
from nuwa.engine.vision import schedule_for
from nuwa.models import adapter_for
from nuwa.pruners import KeepAll
from nuwa.pruning.budget import Budget, BudgetError
from nuwa.pruning.schedules import Schedule

PROMPTS = ("first", "middle", "two", "last")
SUITED = [name for name in METHODS if name not in (*UNSUITED, "none")]


def of_sizes(*sizes):
    """Qwen with four pictures of other sizes."""
    family = Qwen()
    family.sizes = sizes
    return family


TINY = of_sizes((1, 1), (1, 2), (2, 1), (2, 2))
THIN = of_sizes((1, 5), (3, 1), (2, 3), (3, 3))
TINY_SHAPE = adapter_for(TINY.model()).shape
MIXED = of_sizes((6, 7), (1, 1), (5, 5), (1, 2))


def check_rows(family, pruner, prompts=PROMPTS):
    """Every row of a batch has the logits it has alone, at every place of the prompt."""
    model = family.model()
    with torch.no_grad(), nuwa.prune(model, pruner) as session:
        together = model(**family.inputs(*prompts, numbered=True)).logits
        images = session.report().images
        for row, name in enumerate(prompts):
            alone = model(**family.inputs(name, numbered=True)).logits[0]
            torch.testing.assert_close(together[row, -len(alone) :], alone, atol=3e-6, rtol=0)
    return images


@pytest.mark.parametrize(("family", "kind"), [(TINY, 0), (THIN, 1), (MIXED, 0)], ids=["tiny", "thin", "mixed"])
@pytest.mark.parametrize(("name", "number"), [(name, number) for number, name in enumerate(SUITED)], ids=SUITED)
def test_tiny_images_under_a_share(family, kind, name, number):
    """The share of the pictures alternates, over methods and over sizes."""
    ratio = (0.25, 0.5)[(kind + number) % 2]
    images = check_rows(family, spending(name, Budget(ratio=ratio)))
    assert all(min(image.per_layer) >= 1 for image in images)


def test_an_image_too_small_for_its_share_stays_whole_and_a_large_one_is_refused():
    model, pruner = TINY.model(), nuwa.load_pruner("nuwa", budget=Budget(ratio=0.25))
    with torch.no_grad(), nuwa.prune(model, pruner) as session:
        model(**TINY.inputs("first"))
    assert session.report().tokens_per_layer == [1] * 6
    large = of_sizes(*[(9, 9)] * 4)
    beyond = nuwa.load_pruner("fastv", budget=Budget(ratio=0.1))
    with torch.no_grad(), nuwa.prune(model, beyond), pytest.raises(BudgetError, match="see all 81 tokens"):
        model(**large.inputs("first"))


def test_the_largest_small_image_has_64_tokens():
    pruner = nuwa.load_pruner("fastv", budget=Budget(ratio=0.1))
    assert schedule_for(pruner, 64, TINY_SHAPE) == (Schedule(64), True)
    with pytest.raises(BudgetError, match="see all 65 tokens"):
        schedule_for(pruner, 65, TINY_SHAPE)


@pytest.mark.parametrize(("n_tokens", "small"), [(99, True), (100, True), (101, False)])
def test_an_image_of_exactly_the_budget_stays_whole(n_tokens, small):
    schedule, found = schedule_for(nuwa.load_pruner("random", budget=100), n_tokens, TINY_SHAPE)
    assert (schedule.vision, found) == (min(n_tokens, 100), small)


@pytest.mark.parametrize("side", ["left", "right"])
def test_states_return_to_their_places_when_the_longest_row_loses_nothing(side):
    """A row of text is longer than a pruned one; the pruned row's text keeps its places."""
    model, ids = FAMILIES["llava"].model(), (prompt(90), prompt(9, "image", 7))
    alone = batch(ids[1]) | {"pixel_values": pixels(1)}
    together = batch(*ids, side=side) | {"pixel_values": pixels(1)}
    for pruner in (KeepAll(), Fixed(3, (2,))):
        with torch.no_grad(), nuwa.prune(model, pruner):
            expected, found = model(**alone).logits[0], model(**together).logits[1]
        found = found[-len(expected) :] if side == "left" else found[: len(expected)]
        torch.testing.assert_close(found, expected, atol=3e-6, rtol=0)


@pytest.mark.parametrize("name", METHODS)
def test_a_longer_row_of_text_changes_nothing(name):
    """Nothing may be read off the length of the batch."""
    model, ids = FAMILIES["llava"].model(), (prompt(90), prompt(9, "image", 7))
    pruner = pruner_for(name)
    rows = []
    with torch.no_grad(), nuwa.prune(model, pruner):
        for inputs in (batch(*ids), batch(ids[1])):
            inputs["position_ids"] = (inputs["attention_mask"].cumsum(1) - 1).clamp_min(0)
            rows.append(model(**inputs, pixel_values=pixels(1)).logits[-1, -7:])
    torch.testing.assert_close(*rows, atol=3e-6, rtol=0)


@pytest.mark.parametrize("llm", ["dart", "sparsevlm", "cdpruner", "fastv", "feather"])
def test_an_image_without_a_stage_beside_one_that_has_it(llm):
    """Two images in a prompt that is padded: what is left of the small one goes on, and no padding with it."""
    family = of_sizes((9, 9), (7, 6), (1, 2), (6, 6))
    pruner = nuwa.load_pruner("composed", vision="divprune", llm=llm, budget=Budget(ratio=0.5))
    images = check_rows(family, pruner, ("two", "middle"))
    model = adapter_for(family.model())
    for image in images:
        planned = pruner.schedule(image.n_tokens, model.shape.layers).per_layer(model.shape.layers)
        assert image.per_layer == planned
