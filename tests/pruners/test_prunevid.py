"""PruneVid against golden data of the authors' code, and what these do not pin."""

from __future__ import annotations

import pytest
import torch
from helpers.golden_cases import Golden, after, golden_runs, noise, prompt, vision_context

from nuwa.pruners import PruneVid
from nuwa.pruners.prunevid import contiguous
from nuwa.pruning.budget import Budget, BudgetError
from nuwa.pruning.layout import ImageLayout

CASES = ("prunevid_f8", "prunevid_moving_f16", "prunevid_cuts_f16", "prunevid_static_f8")


def first_stage(name, run):
    case = Golden(name)
    params = case.params(run)
    pruner = PruneVid(
        adaptive=True,
        still_above=params["tau"],
        scenes=params["temporal_segment_ratio"],
        cluster_ratio=params["cluster_ratio"],
    )
    features = case.inputs["video_features"][0].unflatten(0, (params["frames"], -1))
    return case, features, pruner.compress(features, {}, 0)


def block_sizes(left, frames):
    """Frames, still tokens and others of every segment."""
    segments = left.extras["segment"].view(frames, -1)[:, 0].tolist()
    windows = [segments.count(segment) for segment in sorted(set(segments))]
    kept, first, still, moving = left.extras["group"][left.cells].tolist(), 0, [], []
    for window in windows:
        still.append(kept.count(first))
        moving.append(sum(kept.count(first + 1 + frame) for frame in range(window)))
        first += 1 + window
    return windows, still, moving


@pytest.mark.parametrize(("name", "run"), golden_runs(*CASES, only=lambda run: run.startswith("stage1")))
def test_the_vision_stage(name, run):
    case, features, left = first_stage(name, run)
    windows, still, moving = (torch.tensor(sizes) for sizes in block_sizes(left, len(features)))
    case.check(run, tokens=left.tokens[None], static_sizes=still, dynamic_sizes=moving, window_sizes=windows)


@pytest.mark.parametrize(("name", "run"), golden_runs(*CASES, only=lambda run: run.startswith("stage2")))
def test_the_inner_stage(name, run):
    """The case has text behind the video only, every token of which asks."""
    before = run.replace("stage2", "stage1")
    case, _, left = first_stage(name, before)
    attention = case.inputs[run.replace("stage2", "attention")]
    text, count = attention.shape[2:]
    context = after(prompt(0, count, text), layouts=[[ImageLayout.single((1, count))]])
    context.extras = [[{"group": left.extras["group"][left.cells]}]]
    rows = torch.cat([attention, torch.ones(*attention.shape[:3], text)], -1)
    context.previous.attention = lambda query: rows[:, :, query - count]
    kept = PruneVid(adaptive=True, inner_keep=case.params(run)["alpha"]).prune_llm(context, torch.tensor([[count]]))
    case.check(run, kept=kept[0, :count].nonzero()[:, 0])


def video(features):
    """The context of videos (B, F, M, D)."""
    context = vision_context(features.shape[1:3], features.flatten(1, 2), {})
    context.frames = features.shape[1]
    return context


@pytest.mark.parametrize(
    ("labels", "segments"),
    [
        ([3], [0]),
        ([0, 1, 2, 3], [0, 0, 0, 0]),  # no cluster has two frames in a row
        ([0, 0, 1, 1, 0, 0], [0, 0, 1, 1, 2, 2]),  # both runs of 0 are its longest
        ([0, 0, 0, 1, 1, 0, 2, 2], [0, 0, 0, 1, 1, 1, 2, 2]),  # of neighbours as long the left one
        ([0, 0, 2, 1, 1, 1], [0, 0, 1, 1, 1, 1]),
        ([5, 0, 0, 7, 0, 0, 5], [0] * 7),
        ([1, 0, 0, 2, 2, 2, 3], [0, 0, 0, 1, 1, 1, 1]),
    ],
)
def test_segments_are_contiguous(labels, segments):
    assert contiguous(labels) == segments


@pytest.mark.parametrize("frames", [1, 2, 5, 8])
@pytest.mark.parametrize("share", [0.01, 0.2, 0.6, 0.99])
def test_a_budget_is_spent(frames, share):
    """On noise, still frames, empty ones, and a scene of which half stands still."""
    half = torch.where(torch.arange(20)[:, None] < 10, noise(1, 20, 8), noise(frames, 20, 8, seed=1))
    for features in (noise(frames, 20, 8), noise(1, 20, 8).expand(frames, -1, -1), torch.zeros(frames, 20, 8), half):
        units = len(PruneVid(adaptive=True, cluster_ratio=1.0).compress(features, {}, 0).cells)
        keep = max(1, int(units * share))
        decision = PruneVid().prune_vision(video(features[None]), keep)
        kept, members = decision.keep[0], decision.members[0]
        assert len(kept.unique()) == len(kept) == keep and bool(decision.projected.isfinite().all())
        assert torch.equal(members[kept], torch.arange(keep))
        for place in range(keep):
            mine = features.flatten(0, 1)[members == place]
            torch.testing.assert_close(decision.projected[0, place], mine.mean(0))
        group = decision.extras["group"][0]
        assert bool((group[kept].diff() >= 0).all())
        assert all(torch.equal(group[members == place], group[kept[place]].expand(int((members == place).sum())))
                   for place in range(keep))  # fmt: skip


def test_what_stands_still_is_one_token_for_all_frames():
    """Of five frames the left half stands still; a picture has nothing to compare, and is clustered whole."""
    features = torch.where(torch.arange(20)[:, None] < 10, noise(1, 20, 8), noise(5, 20, 8, seed=1))
    left = PruneVid(adaptive=True, cluster_ratio=1.0).compress(features, {}, 0)
    assert left.cells[:10].tolist() == list(range(10))
    assert left.cells[10:].tolist() == [20 * frame + cell for frame in range(5) for cell in range(10, 20)]
    assert torch.equal(left.tokens[10:], features[:, 10:].flatten(0, 1))
    picture = PruneVid(adaptive=True, cluster_ratio=0.5).compress(features[:1], {}, 0)
    assert len(picture.cells) == 10 and picture.extras["group"].unique().tolist() == [1]


def test_a_batch_of_videos_is_the_videos_alone():
    features, pruner = noise(3, 6, 25, 8, seed=4), PruneVid(adaptive=True)
    features[1] = features[1, :1]
    decision = pruner.prune_vision(video(features), 150)
    assert len(set(decision.counts.tolist())) > 1
    for i, count in enumerate(decision.counts.tolist()):
        alone = pruner.prune_vision(video(features[i : i + 1]), 150)
        assert torch.equal(decision.keep[i, :count], alone.keep[0])
        assert torch.equal(decision.projected[i, :count], alone.projected[0])


def test_inside_the_llm_groups_share_what_stays():
    """Three groups of 6, 3 and 1 tokens keep 4: the best of each, and one more of the largest; one token each of 3."""
    group, score = torch.tensor([0] * 6 + [1] * 3 + [2]), noise(10).softmax(0)
    context = after(prompt(2, 10, 3), layouts=[[ImageLayout.single((1, 10))]], extras=[[{"group": group}]])
    rows = torch.cat([torch.ones(2), score, torch.ones(3)]) * torch.tensor([0.5, 1.0])[None, :, None, None]
    context.previous.attention = lambda query: rows.expand(-1, -1, len(query), -1)
    for keep, counts in ((4, (2, 1, 1)), (3, (1, 1, 1)), (2, (1, 1, 0)), (10, (6, 3, 1))):
        kept = PruneVid().prune_llm(context, torch.tensor([[keep]]))[0, 2:12]
        for number, count in enumerate(counts):
            mine = torch.where(group == number, score, -1)
            assert kept[group == number].sum() == count and set(mine.topk(count).indices.tolist()) <= set(
                kept.nonzero()[:, 0].tolist()
            )


def test_the_budget_is_the_average_over_layers():
    schedule = PruneVid(budget=Budget(ratio=0.2)).schedule(2304, 32)
    assert schedule.vision == round(0.2 * 2304 * 32 / (11 + 0.4 * 21)) and [at for at, _ in schedule.llm] == [11]
    assert schedule.average(32) == pytest.approx(0.2 * 2304, abs=0.5)
    assert PruneVid(budget=Budget(ratio=0.2), inner_keep=1).schedule(2304, 32).vision == 461


def test_published_counts_take_no_budget():
    with pytest.raises(BudgetError, match=r"pruner\.adaptive=true the video decides; use budget=full"):
        PruneVid(budget=Budget(ratio=0.2), adaptive=True).schedule(100, 8)
    assert PruneVid(adaptive=True).turned(0.3).cluster_ratio == 0.3


@pytest.mark.parametrize("options", [{"scenes": 0}, {"inner_keep": 0}, {"inner_layer": 1.0}, {"cluster_ratio": 1.5}])
def test_options_out_of_range_are_named(options):
    with pytest.raises(ValueError, match=rf"pruner.{next(iter(options))} must be"):
        PruneVid(**options)
