"""VLM-Pruner: golden data of its authors' code, and the choice by a slow loop."""

import math

import pytest
import torch
from helpers.golden_cases import Golden, after, golden_runs, noise, prompt

import nuwa
from nuwa.pruning.layout import ImageLayout


def context_of(hidden, keys, start, grid, text):
    """The prompt on entry of layer 2; keys (1, H, L, hd) are those of layer 1."""
    layouts = [[ImageLayout.single(grid)]]
    parts = (start, grid[0] * grid[1], text)
    before = prompt(*parts, hidden=hidden, layer=1, keys=lambda: keys.transpose(1, 2).flatten(2))
    return after(before, layouts=layouts)


@pytest.mark.parametrize(("name", "run"), golden_runs("vlmpruner_llava", "vlmpruner_qwen"))
def test_golden(name, run):
    case = Golden(name)
    params, hidden = case.params(run), case.inputs["hidden"]
    start, grid = params["visual_start"], (params["grid_h"], params["grid_w"])
    end = start + grid[0] * grid[1]
    context = context_of(hidden, case.inputs["keys"], start, grid, hidden.shape[1] - end)
    options = {"threshold": params["threshold"], "batch": params["token_batch"], "grid": params.get("grid", "merged")}
    pruner = nuwa.load_pruner("vlm_pruner", variant="release", **options)
    decision = pruner.prune_llm(context, torch.tensor([[params["keep"]]]))
    kept = decision.keep[0].nonzero()[:, 0]
    text = torch.tensor([*range(start), *range(end, hidden.shape[1])])
    case.check(run, kept=kept - start, keep_sequence_indices=torch.cat([kept, text]).sort().values)
    case.check(run, features=decision.hidden[0, kept])
    members, dropped = decision.members[0], set(range(start, end)) - set(kept.tolist())
    assert torch.equal(members[kept], kept) and set(members[text].tolist()) <= {-1}
    states = torch.nn.functional.normalize(widest(hidden[0, start:end]), dim=-1)
    for place in dropped:
        assert int(members[place]) == int(kept[(states[kept - start] @ states[place - start]).argmax()])
    untouched = torch.ones(hidden.shape[1], dtype=torch.bool).index_fill(0, kept, False)
    assert torch.equal(decision.hidden[0, untouched], hidden[0, untouched])


def widest(states):
    """The 256 channels with the largest variance."""
    return states[:, states.var(0).argsort(descending=True)[:256]]


def slow(hidden, keys, grid, keep, tau, batch):
    """The tokens of one image that stay, token by token."""
    n = len(hidden)
    direction = [h / h.norm() for h in hidden]
    place = [(i // grid[1], i % grid[1]) for i in range(n)]
    pivots = [max(range(n), key=lambda i: float(keys[i].abs().sum()))]
    while len(pivots) < min(4, keep):
        others = [i for i in range(n) if i not in pivots]
        pivots.append(max(others, key=lambda i: min(float((keys[i] - keys[p]).norm()) for p in pivots)))

    def likeness(i, chosen):
        nearest = min(math.dist(place[i], place[j]) for j in chosen) / math.hypot(*grid)
        return max(float(direction[i] @ direction[j]) for j in chosen) * (1 + 0.5 * nearest)

    chosen = list(pivots)
    while len(chosen) < keep:
        order = sorted((i for i in range(n) if i not in chosen), key=lambda i: likeness(i, chosen))
        for first in range(0, len(order), batch):
            values = {i: likeness(i, chosen) for i in order[first : first + batch]}
            new = [i for i in values if values[i] < tau]
            if len(chosen) + len(new) > keep:
                new = sorted(values, key=values.get)[: keep - len(chosen)]
            chosen += new
            if not new and not first:
                break
        tau += 0.1
    return sorted(chosen)


@pytest.mark.parametrize(("keep", "threshold"), [(3, 0.8), (9, 0.8), (20, 0.2), (30, -0.4)])
def test_the_budget_is_spent_where_the_release_may_stop(keep, threshold):
    hidden, keys = noise(1, 40, 12) + 0.3, noise(1, 2, 40, 6, seed=1)
    context = context_of(hidden, keys, 3, (5, 6), 7)
    decision = nuwa.load_pruner("vlm_pruner", threshold=threshold, batch=4).prune_llm(context, torch.tensor([[keep]]))
    flat = keys.transpose(1, 2).flatten(2)[0, 3:33]
    expected = slow(hidden[0, 3:33], flat, (5, 6), keep, threshold, 4)
    assert (decision.keep[0].nonzero()[:, 0] - 3).tolist() == expected


def test_every_channel_counts_where_there_are_few():
    """The model of this test has fewer than 256; two states that differ in one channel alone are not alike."""
    hidden = torch.zeros(1, 4, 2)
    hidden[0, :, 0], hidden[0, 3, 1] = 1.0, 5.0
    context = context_of(hidden, noise(1, 1, 4, 2), 0, (2, 2), 0)
    decision = nuwa.load_pruner("vlm_pruner", pivots=1).prune_llm(context, torch.tensor([[2]]))
    assert decision.keep[0, 3]
