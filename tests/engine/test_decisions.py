"""A method's mistakes raise by name, and a mask needs to name visual tokens only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from helpers.families import FAMILIES
from helpers.family import run
from helpers.support import Fixed, Merging

import nuwa
from nuwa.engine.decisions import DecisionError
from nuwa.pruners.base import LLMDecision, Pruner, VisionDecision
from nuwa.pruning.schedules import Schedule

LLAVA = FAMILIES["llava"]


@dataclass
class Answers(Pruner):
    """Plans ``counts`` of 64 tokens before the LLM and on entry of layer 2, and answers what it is told to."""

    vision: object = None
    llm: object = None
    counts: tuple[int, int] = (16, 8)

    name: ClassVar[str] = "answers"

    @property
    def prunes_vision(self):
        return self.vision is not None

    def schedule(self, n_tokens, layers):
        before, inside = self.counts
        return Schedule(before if self.vision else n_tokens, ((2, inside),) if self.llm else ())

    def prune_vision(self, context, keep):
        told = self.vision(context, keep)
        return VisionDecision(**told) if isinstance(told, dict) else told

    def prune_llm(self, context, keep):
        return self.llm(context, keep)


@dataclass
class Quiet(Answers):
    """Has stages in the LLM by its schedule, and nothing to say there."""

    name: ClassVar[str] = "quiet"
    prune_llm = Pruner.prune_llm


def first(context, count):
    """The first ``count`` visual tokens of each image, text not among them."""
    mask = torch.zeros_like(context.valid)
    for row, _, mine in context.each_image():
        mask[row, mine[:count]] = True
    return mask


def indices(*kept):
    return lambda context, keep: {"keep": torch.tensor([kept] * len(context.ids))}


def counted(*counts):
    return lambda context, keep: {"keep": torch.arange(16)[None], "counts": torch.tensor(counts)}


def remade(name, value):
    """New features by name, one number of them being ``value``."""

    def answer(context, keep):
        features = context.features[:, :16].clone()
        new = features if name == "features" else context.project(features)
        new[0, 3, 1] = value
        return {"keep": torch.arange(16)[None], name: new}

    return answer


def torn(context, row, place):
    """The first eight stay, and a number of the state at a place of a row becomes none."""
    hidden = context.hidden.clone()
    hidden[row, place, 0] = torch.nan
    return LLMDecision(first(context, 8), hidden=hidden)


def merged(members=None, **others):
    members = torch.zeros(1, 64).long() if members is None else members
    return lambda context, keep: {"keep": torch.arange(16)[None], "members": members, **others}


def went_into(context, place, row=0):
    """The first eight of each image stay, and the ninth of a row's first image went to a place."""
    keep = first(context, 8)
    members = torch.where(keep, torch.arange(keep.shape[1]), -1)
    members[row, (context.image[row] == 0).nonzero()[8]] = place
    return LLMDecision(keep, members=members)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (indices(*[3] * 16), "vision stage, image .*: index 3 appears 16 times"),
        (indices(*range(15), 64), "vision stage, image .*: index 64 of 64 visual tokens"),
        (indices(*range(15), -1), "vision stage, image .*: index -1 of 64 visual tokens"),
        (indices(*range(40)), "vision stage, image .*: kept 40 of 64 visual tokens where 16 were planned"),
        (lambda c, k: {"keep": torch.arange(16)}, r"keep is \(16,\) torch.int64, not \(1, 16\) torch.int64"),
        (lambda c, k: {"keep": torch.ones(1, 64, dtype=torch.bool)}, r"keep is \(1, 64\) torch.bool, not \(1, 16\)"),
        (lambda c, k: {"keep": torch.arange(32).view(2, 16)}, r"keep is \(2, 16\) torch.int64, not \(1, 16\)"),
        (
            lambda c, k: {"keep": torch.arange(16)[None], "features": c.features[:, :9]},
            r"features are \(1, 9, 32\), but keep is \(1, 16\)",
        ),
        (
            lambda c, k: {"keep": torch.arange(16)[None], "counts": torch.tensor([7])},
            "kept 7 of 64 visual tokens where 16 were planned",
        ),
        (lambda c, k: None, "vision stage: answered NoneType, not VisionDecision"),
        (lambda c, k: torch.arange(16)[None], "vision stage: answered Tensor, not VisionDecision"),
        (lambda c, k: VisionDecision([[1, 2]]), "vision stage: answered list, not VisionDecision"),
        (remade("features", torch.nan), "image .*: made features of which 1 are NaN or infinite"),
        (remade("projected", torch.inf), "image .*: made features of which 1 are NaN or infinite"),
        (counted(-1), "vision stage, image .*: counts -1 of the 16 tokens that it names"),
        (counted(17), "vision stage, image .*: counts 17 of the 16 tokens that it names"),
        (counted(16, 16), r"counts are \(2,\), not \(1,\)"),
        (merged(torch.zeros(1, 9).long()), r"members are \(1, 9\), not \(1, 64\)"),
        (merged(torch.zeros(1, 64)), "image .*: member of torch.float32, which is no place among 16 kept"),
        (merged(torch.full((1, 64), 16)), "image .*: member of 16, which is no place among 16 kept"),
        (merged(torch.full((1, 64), -2)), "image .*: member of -2, which is no place among 16 kept"),
        (merged(sizes=torch.ones(1, 64)), r"sizes are \(1, 64\), not \(1, 16\)"),
        (merged(sizes=torch.zeros(1, 16)), "image .*: sizes must be positive numbers, not 0"),
        (merged(sizes=torch.full((1, 16), float("nan"))), "image .*: sizes must be positive numbers, not nan"),
        (merged(shares=torch.ones(1, 16)), r"shares are \(1, 16\), not \(1, 64\)"),
        (merged(weights=torch.ones(1, 64, 16)), r"weights are \(1, 64, 16\), not \(1, 16, 64\)"),
    ],
)
def test_mistakes_before_the_llm(answer, message):
    with pytest.raises(DecisionError, match=f"pruner answers.*{message}"):
        run(LLAVA.model(), LLAVA.inputs("first"), Answers(answer))


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda c, k: first(c, 40), "image .*: kept 40 of 64 visual tokens where 8 were planned"),
        (lambda c, k: c.text, "image .*: kept 0 of 64 visual tokens where 8 were planned"),
        (lambda c, k: first(c, 8).long(), "keep is .* torch.int64, not .* torch.bool"),
        (lambda c, k: first(c, 8)[:, 1:], r"keep is \(2, \d+\) torch.bool, not"),
        (lambda c, k: LLMDecision(first(c, 8), hidden=c.hidden[:, :9]), r"hidden is \(2, 9, 48\) torch.float32, not"),
        (lambda c, k: LLMDecision(first(c, 8), order=c.token[:, 1:]), "order is"),
        (lambda c, k: LLMDecision(first(c, 8), members=c.token[:, 1:]), "members is"),
        (lambda c, k: None, "answered NoneType, not a tensor or an LLMDecision"),
        (lambda c, k: first(c, 8).tolist(), "answered list, not a tensor"),
        (lambda c, k: LLMDecision(first(c, 8), hidden=c.hidden.double()), r"hidden is .* torch.float64, not .*float32"),
        (lambda c, k: LLMDecision(first(c, 8), order=c.token.float()), "order is .* torch.float32, not .*int64"),
        (lambda c, k: LLMDecision(first(c, 8), order=c.token - 2), r"images .*: \d+ tokens have a negative order"),
        (
            lambda c, k: torn(c, 0, (c.image[0] == 0).nonzero()[2, 0]),
            "images .*: 1 tokens have new states that are NaN",
        ),
        (lambda c, k: (c.hidden.mul_(2), first(c, 8))[1], "changed its context in place"),
        (lambda c, k: (c.image.fill_(-1), first(c, 8))[1], "changed its context in place"),
        (lambda c, k: went_into(c, c.valid.shape[1]), "images .*: 1 tokens went into tokens that do not stay"),
        (lambda c, k: went_into(c, -2), "images .*: 1 tokens went into tokens that do not stay"),
        (lambda c, k: went_into(c, 0), "images .*: 1 tokens went into tokens that do not stay"),
        (lambda c, k: went_into(c, (c.image[0] == 0).nonzero()[9]), "images .*: 1 tokens went into"),
        (lambda c, k: went_into(c, (c.image[1] == 1).nonzero()[0], row=1), "images .*: 1 tokens went into"),
    ],
)
def test_mistakes_inside_the_llm(answer, message):
    with pytest.raises(DecisionError, match=f"pruner answers, layer 2.*{message}"):
        run(LLAVA.model(), LLAVA.inputs("middle", "two"), Answers(llm=answer))


def test_states_of_what_leaves_may_be_anything():
    inputs, sound = LLAVA.inputs("middle", "two"), Answers(llm=lambda c, k: first(c, 8))
    gone = Answers(llm=lambda c, k: torn(c, 0, (c.image[0] == 0).nonzero()[20, 0]))
    assert torch.equal(run(LLAVA.model(), inputs, gone), run(LLAVA.model(), inputs, sound))


@pytest.mark.parametrize(
    ("layers", "message"),
    [((9,), r"names layers \[9\]; they rise, from 0 to 5"), ((3, 2), r"names layers \[3, 2\]; they rise")],
)
def test_stages_at_layers_that_are_not_there(layers, message):
    with pytest.raises(ValueError, match=f"pruner fixed: its schedule {message}"):
        nuwa.prune(LLAVA.model(), Fixed(3, layers))


def test_stages_that_nobody_decides_on():
    with pytest.raises(ValueError, match="pruner quiet: its schedule has stages in the LLM, but it defines no"):
        nuwa.prune(LLAVA.model(), Quiet(llm=True))


def test_the_image_is_named():
    def second_wrong(context, keep):
        mask = first(context, 8)
        mask[1, (context.image[1] == 1).nonzero()[8]] = True
        return mask

    with nuwa.prune(LLAVA.model(), Answers(llm=second_wrong)) as session:
        about = session.about(["one", "two", "three"])
        with about, pytest.raises(DecisionError, match="image three: kept 9 of 64"):
            session.adapter.model(**LLAVA.inputs("middle", "two"))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_mask_of_visual_tokens_only_is_as_one_with_text(family):
    """Nor can a method let padding in."""
    family = FAMILIES[family]
    inputs = family.inputs("middle", "last")
    without = run(family.model(), inputs, Answers(llm=lambda c, k: first(c, 8)))
    assert torch.equal(without, run(family.model(), inputs, Answers(llm=lambda c, k: first(c, 8) | c.text)))
    assert torch.equal(without, run(family.model(), inputs, Answers(llm=lambda c, k: first(c, 8) | ~c.valid)))


def test_a_merging_method_need_not_name_text():
    model, inputs = LLAVA.model(), LLAVA.inputs("middle", "two")
    pruner, decide = Merging((2,)), Merging((2,)).prune_llm

    def without_text(context, keep):
        decision = decide(context, keep)
        return LLMDecision(decision.keep & (context.image >= 0), decision.hidden, decision.order)

    expected = run(model, inputs, pruner)
    pruner.prune_llm = without_text
    assert torch.equal(expected, run(model, inputs, pruner))


def test_a_method_may_count_by_itself():
    class Free(Answers):
        counts_by_itself = True

    model, inputs, kept = LLAVA.model(), LLAVA.inputs("first"), Free(indices(*range(40)), lambda c, k: first(c, 5))
    with torch.no_grad(), nuwa.prune(model, kept) as session:
        model(**inputs)
    assert session.report().tokens_per_layer == [40, 40, 5, 5, 5, 5]


@pytest.mark.parametrize("name", ["prumerge", "prumerge_plus"])
def test_images_that_decide_on_their_numbers_are_as_alone(name):
    model, names = LLAVA.model(), ("middle", "two", "last")
    with torch.no_grad(), nuwa.prune(model, nuwa.load_pruner(name, adaptive=True)) as session:
        together = model(**LLAVA.inputs(*names)).logits
        kept = [image.stages[0][1] for image in session.report().images]
        alone = []
        for row, prompt in enumerate(names):
            logits = model(**LLAVA.inputs(prompt)).logits[0]
            torch.testing.assert_close(together[row, -len(logits) :], logits, atol=3e-6, rtol=0)
            alone += [image.stages[0][1] for image in session.report().images]
    assert kept == alone and len({len(tokens) for tokens in kept}) > 1


def test_an_image_with_less_left_than_planned_keeps_all_of_it():
    few = Answers(indices(*range(4)), lambda c, k: first(c, 8), counts=(4, 8))
    with torch.no_grad(), nuwa.prune(LLAVA.model(), few) as session:
        session.adapter.model(**LLAVA.inputs("first"))
    assert session.report().tokens_per_layer == [4] * 6


def test_extras_of_an_image_of_one_view_are_as_the_method_gave_them():
    extras = {"kept": torch.rand(1, 16), "every": torch.rand(1, 64)}
    pruner = Answers(lambda c, k: {"keep": torch.arange(16)[None], "extras": extras})
    with torch.no_grad(), nuwa.prune(LLAVA.model(), pruner) as session:
        session.adapter.model(**LLAVA.inputs("first"))
    (image,) = session.report().images
    assert {name: values.tolist() for name, values in image.extras.items()} == {
        name: values[0].tolist() for name, values in extras.items()
    }
