"""Who went into whom: every merging method says it, and what it says makes the features that it hands over."""

from __future__ import annotations

import pytest
import torch
from helpers.families import FAMILIES
from helpers.methods import METHODS, pruner_for

import nuwa
from nuwa.engine.arguments import cache_of
from nuwa.engine.calls import read_prompt_once
from nuwa.engine.conversation import conversation_of
from nuwa.pictures.traces import gathering_weights
from nuwa.pruners.pooling import pool, pooling_weights
from nuwa.pruning.budget import Budget
from nuwa.pruning.merging import collected, collector_weights

LLAVA = FAMILIES["llava"]
CLOSE = {"atol": 2e-5, "rtol": 1e-4}


def decisions_of(name, stage, budget):
    """The contexts and decisions of a method's stage, and the state of the call."""
    pruner, seen = pruner_for(name), []
    pruner.budget = Budget(average=budget)
    decide = getattr(pruner, stage)

    def spy(context, keep):
        seen.append((context, decide(context, keep)))
        return seen[-1][1]

    setattr(pruner, stage, spy)
    with torch.no_grad(), nuwa.prune(LLAVA.model(), pruner) as session:
        about = session.about(questions=["what?"] * 3)
        with about:
            state = conversation_of(cache_of(read_prompt_once(session, LLAVA.inputs("middle", "two"))))
    return seen, state


@pytest.mark.parametrize("name", [name for name in METHODS if nuwa.load_pruner(name).prunes_vision])
def test_members_make_the_features(name):
    seen, _ = decisions_of(name, "prune_vision", 20)
    merges = nuwa.load_pruner(name).info.merges or name == "composed"
    for context, decision in seen:
        assert (decision.members is not None) == merges
        behind = decision.features is None and decision.projected is not None
        for row, features in enumerate(context.project(context.features) if behind else context.features):
            weights = gathering_weights(decision, row)
            if weights is None:
                continue
            somebody = weights.sum(1) > 0  # VisionZip's CLS token is none of the grid's
            assert somebody.sum() >= len(weights) - 1
            found = (decision.projected if behind else decision.features)[row, somebody]
            made = weights[somebody] @ features
            if name == "tofu":  # stretches after every round: of pairs the direction is left
                pairs = (weights > 0).sum(1) <= 2
                found, made = (torch.nn.functional.normalize(x[pairs], dim=-1) for x in (found, made))
            torch.testing.assert_close(found, made, **CLOSE)
            alone = name == "holitom"  # of one frame nothing is merged
            assert (decision.members[row] >= 0).sum() >= len(weights) + (not alone)


@pytest.mark.parametrize("name", [name for name in METHODS if nuwa.load_pruner(name).prunes_llm])
def test_members_make_the_states(name):
    seen, _ = decisions_of(name, "prune_llm", 32)
    for context, decision in seen:
        members = getattr(decision, "members", None)
        assert (members is None) == (getattr(decision, "hidden", None) is None)
        for row, mine in enumerate(() if members is None else members):
            slots = mine[mine >= 0].unique()
            assert len(slots) < (mine >= 0).sum() and decision.keep[row, slots].all()
            for slot in slots:
                group, found = context.hidden[row, mine == slot], decision.hidden[row, slot]
                made = group.mean(0)
                if name == "vlm_pruner":  # shares of its own, which sum to one
                    made = torch.linalg.lstsq(group.T, found[:, None]).solution[:, 0] @ group
                    assert len(group) < group.shape[1] / 2
                torch.testing.assert_close(found, made, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", [name for name in METHODS if nuwa.load_pruner(name).prunes_vision])
def test_plans_say_it_in_the_tokens_of_the_image(name):
    """Of one plain grid a cell is a token; a kept token is its own, but for VisionZip's CLS token."""
    seen, state = decisions_of(name, "prune_vision", 16)
    decision, plans = seen[0][1], [plan for row in state.prompt.rows for plan in row]
    for row, plan in enumerate(plans):
        kept = decision.keep[row]
        assert (plan.members[kept] != kept).sum() <= int("visionzip" in name or name == "composed")
        assert set(plan.members.tolist()) <= {-1, *kept.tolist()}
        assert (plan.sizes >= 1).all() and (plan.sizes[plan.members == -1] == 1).all()
        if decision.members is not None:
            into = decision.members[row]
            assert plan.members.tolist() == [int(kept[slot]) if slot >= 0 else -1 for slot in into.tolist()]
        if decision.sizes is None:
            counts = [max(1, plan.members.tolist().count(token)) for token in range(len(plan.members))]
            assert plan.sizes.tolist() == counts
        else:
            torch.testing.assert_close(plan.sizes[kept], decision.sizes[row])


def test_collectors_by_a_loop():
    """A token belongs where its weight is largest; a collector is as large as its weights, its own being one."""
    features = torch.randn(1, 35, 6, generator=torch.Generator().manual_seed(3))
    keep, pillar = torch.tensor([[0, 9, 12, 20, 33]]), torch.tensor([[False, True, False, False, False]])
    weight = collector_weights(features, keep, (5, 7), 9.0)
    said = {name: values[0] for name, values in collected(weight, keep, pillar).items()}
    for cell in range(35):
        rates = {slot: float(weight[0, slot, cell]) for slot in (0, 2, 3, 4)}
        best = max(rates, key=rates.get)
        if cell in keep[0].tolist():
            best = keep[0].tolist().index(cell)
        elif rates[best] == 0:
            best = -1
        assert said["members"][cell] == best
    for slot, cell in enumerate(keep[0].tolist()):
        size = 1 if slot == 1 else float(weight[0, slot].sum() / weight[0, slot, cell])
        assert said["sizes"][slot] == pytest.approx(size, rel=1e-5)
    assert (said["members"] == 1).sum() == 1 and (said["sizes"] > 1.5).any()


def test_a_collector_of_nothing_is_one_token():
    """A token without features resembles none, itself included."""
    keep, nothing = torch.tensor([[1, 2]]), torch.tensor([[False, False]])
    said = collected(collector_weights(torch.zeros(1, 4, 3), keep, (2, 2), 9.0), keep, nothing)
    assert said["sizes"].tolist() == [[1, 1]] and said["members"].tolist() == [[-1, 0, 1, -1]]


@pytest.mark.parametrize(("grid", "size"), [((8, 8), (4, 4)), ((7, 5), (3, 4)), ((24, 24), (8, 16)), ((3, 3), (3, 3))])
def test_pooling_weights_are_what_pooling_does(grid, size):
    features = torch.randn(1, grid[0] * grid[1], 3, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(pooling_weights(grid, size)[None] @ features, pool(features, grid, size))
