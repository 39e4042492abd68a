"""Nüwa's released Qwen code against golden data made by running it."""

import pytest
import torch
from helpers.golden_cases import Golden, after, golden_runs, noise, prompt, vision_context

from nuwa.pruners.base import Tap
from nuwa.pruners.nuwa import Nuwa
from nuwa.pruners.nuwa_release_qwen import NuwaReleaseQwen, diagonal_threshold, last_tokens_attention
from nuwa.pruning.budget import Budget, BudgetError
from nuwa.pruning.layout import window_order
from nuwa.pruning.scores import received_attention

STAGE1 = ("nuwa_stage1_qwen_17x22", "nuwa_stage1_qwen_20x26")
SALIENCE, SIMILAR = "attention", "states"


def released(ratio=None, average=None, **options):
    return NuwaReleaseQwen(budget=Budget(average=average, ratio=ratio), **options)


def context_of(case, params):
    taps = {SALIENCE: case.inputs["metric"][None], SIMILAR: case.inputs["sim_embeds"][None]}
    return vision_context(tuple(params["grid"]), case.inputs["image_embeds"][None], taps)


@pytest.mark.parametrize(("name", "run"), golden_runs(*STAGE1))
def test_stage1(name, run):
    case = Golden(name)
    params = case.params(run)
    pruner, (rows, columns) = released(params["keep_ratio"]), params["grid"]
    keep = pruner.schedule(rows * columns, 28).vision
    assert keep == params["num_keep_requested"]
    decision = pruner.prune_vision(context_of(case, params), keep)
    case.check(run, indices=decision.keep[0], pillar_mask=decision.extras["pillar"][0], tokens=decision.features[0])


def test_the_metric_is_received_attention_by_token_in_raster_order():
    case = Golden("nuwa_qwen_metric")
    attention = case.inputs["attention"]
    identity = torch.eye(attention.shape[-1]).expand_as(attention)
    received = received_attention(attention.log()[None], identity[None], 1.0, chunk=7)[0]  # softmax of its logarithm
    case.check("metric", metric=received.mean(0).view(-1, 4).mean(1)[case.inputs["reverse_indices"]])


@pytest.mark.parametrize(("name", "run"), golden_runs("nuwa_stage2_qwen"))
def test_stage2(name, run):
    case = Golden(name)
    params = case.params(run)
    rows, visual = case.inputs[f"last3_rows_{params['n_visual']}"], params["n_visual"]
    length = rows.shape[-1]
    context = prompt(params["visual_start"], visual, length - visual - params["visual_start"])

    def attention(query):
        assert query.tolist() == [length - 3, length - 2, length - 1]
        return rows

    context.attention = attention
    later = after(context)
    span = slice(params["visual_start"], params["visual_start"] + visual)
    case.check(run, score=last_tokens_attention(context)[0, span])
    kept = released(0.5).prune_llm(later, torch.tensor([[params["keep"]]]))
    case.check(run, kept_local=kept[0, span].nonzero()[:, 0])


@pytest.mark.parametrize(
    ("ratio", "first", "second", "average"),
    [(0.25, 0.35, 0.42, 0.256), (0.5, 0.6, 0.66, 0.505), (0.75, 0.85, 0.7, 0.732)],
)
def test_presets_are_the_released_shares_and_spend_what_they_spend(ratio, first, second, average):
    schedule = released(ratio).schedule(1000, 28)
    assert schedule.vision == first * 1000
    assert schedule.llm == ((15, int(first * 1000 * second)),)  # behind layer 14
    assert schedule.average(28) / 1000 == pytest.approx(average, abs=6e-4)


@pytest.mark.parametrize(("budget", "share"), [({"ratio": 0.3}, 0.42), ({"average": 120}, 0.66), ({"ratio": 0.7}, 0.7)])
def test_other_budgets_are_met_with_the_nearest_split(budget, share):
    schedule = released(**budget).schedule(200, 28)
    assert schedule.average(28) == pytest.approx(budget.get("average", 200 * budget.get("ratio", 0)), abs=0.5)
    assert schedule.llm[0][1] / schedule.vision == pytest.approx(share, abs=0.02)
    with pytest.raises(BudgetError, match=r"nuwa_release_qwen cannot reach budget\.average=0\.4"):
        released(average=0.4).schedule(200, 28)
    assert released().schedule(200, 28).per_layer(28) == [200] * 28


@pytest.mark.parametrize(("ratio", "split", "shares"), [(0.25, 0.42, (0.35, 0.15)), (0.5, 0.66, (0.6, 0.4))])
def test_the_papers_variant_has_the_same_split_as_an_option(ratio, split, shares):
    """conf/budget/ratio*.yaml name the option."""
    schedule = Nuwa(budget=Budget(ratio=ratio), stage2_ratio=split).schedule(1000, 28)
    assert (schedule.vision / 1000, schedule.llm[0][1] / 1000) == pytest.approx(shares, abs=0.005)


def test_released_averages_can_be_met_exactly_by_the_papers_variant():
    schedule = Nuwa(budget=Budget(ratio=0.7225), stage2_ratio=0.7).schedule(1000, 28)
    assert (schedule.vision, schedule.llm[0][1]) == (850, 595)


@pytest.mark.parametrize("grid", [(5, 7), (4, 6)])
def test_the_window_bug_compares_tokens_in_the_towers_order(grid):
    """The tower's own order, put in raster order by nobody, gives what the option gives."""
    cells = grid[0] * grid[1]
    features, raster = noise(1, cells, 8, seed=1), noise(1, cells, 8, seed=2)
    in_windows = torch.empty_like(raster)
    in_windows[0, window_order([(1, *grid)], 4)] = raster[0]
    salience = noise(1, cells, seed=3).exp()
    keep = cells // 2

    def merged(similar, **options):
        context = vision_context(grid, features, {SALIENCE: salience, SIMILAR: similar})
        return released(0.5, pillar_quantile=0.9, **options).prune_vision(context, keep).features

    assert torch.equal(merged(raster, window=4), merged(in_windows))
    assert not torch.allclose(merged(raster, window=4), merged(raster))


def test_the_distance_is_a_share_of_the_even_grids_diagonal():
    assert diagonal_threshold((17, 22), 0.8) ** 0.5 == pytest.approx(0.8 * (17**2 + 21**2) ** 0.5)
    assert diagonal_threshold((1, 1), 0.8) > 0


def test_batch_equals_images_alone_and_ties_are_stable():
    features, similar, salience = noise(3, 35, 8), noise(3, 35, 8, seed=1), noise(3, 35, seed=2).exp()
    salience[1] = 1.0
    pruner = released(0.5)
    together = pruner.prune_vision(vision_context((5, 7), features, {SALIENCE: salience, SIMILAR: similar}), 21)
    for i in range(3):
        one = slice(i, i + 1)
        taps = {SALIENCE: salience[one], SIMILAR: similar[one]}
        alone = pruner.prune_vision(vision_context((5, 7), features[one], taps), 21)
        assert torch.equal(together.keep[one], alone.keep)
        torch.testing.assert_close(together.features[one], alone.features)


@pytest.mark.parametrize(
    ("option", "value"), [("distance", 0.0), ("pillar_quantile", 1.5), ("stage2_layer", 1.0), ("window", 0)]
)
def test_impossible_options_are_named(option, value):
    with pytest.raises(ValueError, match=rf"pruner\.{option}"):
        released(0.5, **{option: value})


def test_taps_are_the_second_and_third_quarter_of_the_tower():
    assert NuwaReleaseQwen().taps["states"] == Tap("hidden_mean", start=0.25, stop=0.75)
