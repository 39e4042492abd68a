"""SAINT: golden data of its authors' code, budgets, and its mode behind the tower."""

from itertools import pairwise

import pytest
import torch
from helpers.families import FAMILIES
from helpers.golden_cases import Golden, after, golden_runs, noise, prompt, vision_context

import nuwa
from nuwa.pruners.saint import vote
from nuwa.pruning.budget import BudgetError

LLAVA = FAMILIES["llava"]
ONE_CALL = golden_runs("saint_llava", "saint_odd", only=lambda run: run.startswith("l") and "_t" in run)


def context_of(keys, image, text_before, text_after):
    """A prompt in which ``image`` tokens are left, behind a layer with keys (H, L, hd)."""
    flat = keys.transpose(0, 1).flatten(1)[None]
    before = prompt(text_before, image, text_after, hidden=flat, keys=lambda: flat, kv_heads=len(keys))
    return after(before)


@pytest.mark.parametrize(("name", "run"), ONE_CALL)
def test_golden_calls(name, run):
    case = Golden(name)
    params = case.params(run)
    keys, start, length = case.inputs["keys"][params["layer"]], params["visual_start"], params["image_len"]
    context = context_of(keys, length, start, keys.shape[1] - start - length)
    pruner = nuwa.load_pruner("saint", adaptive=True, threshold=params["threshold"], votes=params["votes"])
    kept = pruner.prune_llm(context, torch.tensor([[length]]))[0]
    votes, _ = vote(
        keys.mean(0)[None, start : start + length], torch.ones(1, length, dtype=torch.bool), pruner.threshold, 10
    )
    case.check(run, kept=kept.nonzero()[:, 0] - start, votes=votes[0, ::2])


@pytest.mark.parametrize("name", ["saint_llava", "saint_odd"])
def test_golden_layers(name):
    """Layer after layer, each seeing what the one before left. (loop_release would let text leave.)"""
    case = Golden(name)
    params = case.params("loop")
    pruner = nuwa.load_pruner("saint", adaptive=True, threshold=params["threshold"])
    start, length = params["visual_start"], params["image_len"]
    rows, end = torch.arange(case.inputs["keys"].shape[2]), params["visual_start"] + params["image_len"]
    for layer in range(params["start"], params["end"] + 1):
        case.check("loop", **{f"rows_{layer}": rows})
        left = int(((rows >= start) & (rows < end)).sum())
        context = context_of(case.inputs["keys"][layer][:, rows], left, start, len(rows) - start - left)
        kept = pruner.prune_llm(context, torch.tensor([[length]]))[0]
        rows = rows[kept | (context.image[0] < 0)]
    case.check("loop", rows_end=rows)


@pytest.mark.parametrize(("average", "first", "last"), [(300, 8, 17), (192, 8, 17), (128, 2, 11), (64, 2, 11)])
def test_budgets_are_met_on_the_authors_layers_or_earlier_ones(average, first, last):
    schedule = nuwa.load_pruner("saint", budget=average).schedule(576, 32)
    assert abs(schedule.average(32) - average) <= max(0.5, 0.01 * average)
    assert (schedule.llm[0][0], schedule.llm[-1][0]) == (first, last) or schedule.llm[-1][1] == 1
    counts = [576, *(count for _, count in schedule.llm)]
    assert all(b >= (a - 1) // 2 for a, b in pairwise(counts))


def test_what_no_ladder_reaches_is_refused():
    with pytest.raises(BudgetError, match=r"ladder=late needs 144\.8 or more, ladder=early needs 36\.9 or more"):
        nuwa.load_pruner("saint", budget=30).schedule(576, 32)
    with pytest.raises(BudgetError, match="ladder=late needs"):
        nuwa.load_pruner("saint", budget=64, ladder="late").schedule(576, 32)
    with pytest.raises(BudgetError, match=r"pruner\.adaptive=true the image decides"):
        nuwa.load_pruner("saint", budget=64, adaptive=True).schedule(576, 32)


def test_where_even_tokens_do_not_suffice_odd_ones_follow():
    keys = noise(2, 20, 6)
    context = context_of(keys, 11, 4, 5)

    def kept(n):
        return set(nuwa.load_pruner("saint").prune_llm(context, torch.tensor([[n]]))[0].nonzero()[:, 0].sub(4).tolist())

    assert kept(5) == {1, 3, 5, 7, 9}
    assert kept(3) < kept(5) < kept(8)
    assert len(kept(3)) == 3 and len(kept(8)) == 8


def test_images_decide_alike_alone_and_in_a_batch():
    model = LLAVA.model()
    with torch.no_grad(), nuwa.prune(model, nuwa.load_pruner("saint", adaptive=True, threshold=0.4)) as session:
        together = model(**LLAVA.inputs("middle", "two", numbered=True)).logits
        counts = [image.per_layer for image in session.report().images]
        alone = model(**LLAVA.inputs("two", numbered=True)).logits
        assert [image.per_layer for image in session.report().images] == counts[1:]
    torch.testing.assert_close(together[1, -alone.shape[1] :], alone[0], atol=2e-6, rtol=0)
    assert len({tuple(count) for count in counts}) > 1
    assert all(count[-1] < 64 for count in counts)


def test_the_tower_mode_against_a_slow_loop():
    keys, heads = noise(2, 40, 12) + 0.2, noise(2, 3, 40)
    context = vision_context((5, 8), noise(2, 40, 6), {"keys": keys, "heads": heads})
    kept = nuwa.load_pruner("saint", mode="tower").prune_vision(context, 11).keep
    for image in range(2):
        metric = keys[image].unflatten(-1, (3, 4)).mean(1)
        left = list(range(40))
        while len(left) > 11:
            likeness = {i: sum(float(torch.cosine_similarity(metric[i], metric[j], dim=0)) for j in left) for i in left}
            for i in sorted(left, key=likeness.get)[max(len(left) - max(1, len(left) // 16), 11) :]:
                left.remove(i)
        assert kept[image].tolist() == left
