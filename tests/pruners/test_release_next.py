"""The released Nüwa on LLaVA-NeXT: golden data and budgets."""

from dataclasses import replace

import pytest
import torch
from helpers.families import FAMILIES
from helpers.families_tiles import PINPOINTS, best_tiles, source_of, unpadded
from helpers.golden_cases import Golden, vision_context

import nuwa
from nuwa.models.llava_next import tiled_layout
from nuwa.pruners.nuwa import Nuwa
from nuwa.pruners.nuwa_release import NuwaRelease
from nuwa.pruning.budget import Budget

GOLDEN = "nuwa_stage1_llava_next_640x480"
FAMILY = FAMILIES["llava_next"]


def layout_of(size):
    layout = tiled_layout(torch.tensor(source_of(size)), (24, 24), best_tiles(size, PINPOINTS, 336), size)
    return replace(layout, crop=layout.source // 576)


def released(case, run):
    """Every view's decision, and the layout."""
    params = case.params(run)
    pruner = NuwaRelease(budget=Budget(average=params["maintain"]), d_thresh=params["d_thresh_sq"])
    layout = layout_of(tuple(params["image_size_wh"][::-1]))
    assert layout.views[1].grid == tuple(params["unpadded_grid_hw"])
    schedule = pruner.schedule(layout.patches, 32)
    assert schedule.vision == params["stage1_budget"]
    shares = pruner.tiling.split_budget(schedule.vision, layout)
    assert shares == [params["num_global"], params["num_local"]]
    states = case.inputs["hidden_states_16_24"].flatten(1, 2)
    attention = case.inputs["cls_attention"].transpose(0, 1).flatten(1)
    decisions = []
    for view, keep in zip(layout.views, shares, strict=True):
        rows = layout.source[view.tokens]
        taps = {"attention": attention[None, :, rows], "states": states.mean(0)[None, rows]}
        context = vision_context(view.grid, states[7][None, rows], taps)
        context.views = 2
        decisions.append(pruner.prune_vision(context, keep))
    return decisions, layout


@pytest.mark.parametrize("run", ["m160", "m320", "m640"])
def test_stage1(run):
    case = Golden(GOLDEN)
    (base, tiles), _ = released(case, run)
    indices = torch.cat([base.keep[0], tiles.keep[0] + 576])
    case.check(run, tokens=torch.cat([base.features, tiles.features], 1), indices=indices)


@pytest.mark.parametrize(
    ("average", "first", "second"), [(160, 290, 29), (320, 582, 58), (640, 1162, 116), (64, 112, 16), (192, 336, 48)]
)
def test_listed_counts(average, first, second):
    schedule = NuwaRelease(budget=Budget(average=average)).schedule(2880, 32)
    assert (schedule.vision, schedule.llm) == (first, ((16, second),))


@pytest.mark.parametrize(("average", "first", "second"), [(160, 290, 29), (320, 582, 58), (640, 1162, 116)])
def test_the_papers_method_with_a_tenth_in_stage_2(average, first, second):
    schedule = Nuwa(budget=Budget(average=average), stage2_ratio=0.1).schedule(2880, 32)
    assert abs(schedule.vision - first) <= 2
    assert schedule.llm == ((16, second),)
    assert schedule.average(32) == pytest.approx(average, abs=0.5)


@pytest.mark.parametrize(("share", "first", "second"), [(0.18, 32, 4), (0.09, 16, 2), (0.05, 9, 1)])
def test_the_shares_that_table_10_prints(share, first, second):
    schedule = Nuwa(budget=Budget(ratio=share), stage2_ratio=1 / 8).schedule(2880, 32)
    percent = [round(100 * count / 2880) for count in (schedule.vision, schedule.llm[0][1])]
    assert percent == [first, second]


@pytest.mark.parametrize("total", [1, 3, 4, 5, 6])
def test_an_image_with_fewer_tokens_than_tiles_keeps_some(total):
    """None for each, if every tile got the same."""
    shares = NuwaRelease().tiling.split_budget(total, layout_of((1000, 1000)))
    assert sum(shares) == min(total, 5)


def test_a_budget_above_what_a_tenth_allows_leaves_small_images_whole():
    """Under dynamic resolution: 48 patches cost at most 26 on average."""
    with torch.no_grad(), nuwa.prune(FAMILY.model(), nuwa.load_pruner("nuwa_release", budget=40)) as session:
        FAMILY.model()(**FAMILY.inputs("middle"))
    (image,) = session.report().images
    cells = len(FAMILY.cells(0))
    assert len(image.stages[0][1]) == cells
    height, width = unpadded(FAMILY.sizes[0], FAMILY.pinpoints, 16, 4)
    patches = [t for t in image.stages[1][1] if FAMILY.cells(0)[t][2] is not None]
    assert len(patches) == int(0.1 * (16 + height * width))
