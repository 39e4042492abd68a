"""HoliTom: golden data of its authors' code, segments by trying all, the inner stage by a loop."""

import itertools

import pytest
import torch
from helpers.golden_cases import Golden, golden_runs, noise, vision_context
from torch.nn.functional import cosine_similarity

import nuwa
from nuwa.pruners import HoliTom
from nuwa.pruners.holitom import join_dropped, one_by_one, reduce_segments, released_quotas
from nuwa.pruning.cuts import best_segments, merged_tokens, still_runs
from nuwa.pruning.merging import merge_alike
from nuwa.pruning.selection import top_tokens

CASES = ("holitom_moving_f10", "holitom_cuts_f14")


@pytest.mark.parametrize(("name", "run"), golden_runs(*CASES, only=lambda run: run[0] == "r"))
def test_golden_segments_and_clusters(name, run):
    case, params = Golden(name), Golden(name).params(run)
    features, total = case.inputs["video_features"], case.inputs["attention"].numel()
    n_tokens = features.shape[1]
    runs = still_runs(features[None], params["tau"])
    (gains,), runs = merged_tokens(runs), runs[0]
    segments = best_segments(gains, params["max_window_size"])
    reduced = sum(gains[end][end - start] for start, end in segments)
    case.check(run, segments=torch.tensor(segments), reduced=torch.tensor(reduced))
    case.check(run, ratio=torch.tensor(min(params["retain_ratio"] / ((total - reduced) / total), 1.0)))
    still = torch.stack([runs[end] >= (end - start if end > start else n_tokens) for start, end in segments])
    counts = still.sum(1).tolist()
    of_frames = torch.arange(len(segments)).repeat_interleave(torch.tensor([b - a + 1 for a, b in segments]))
    moving = [n_tokens - counts[number] for number in of_frames]
    quotas = released_quotas(counts, moving, params["retain_ratio"], total)
    left = reduce_segments(features, case.inputs["attention"], still, segments, *quotas, release=True)
    frame, cell = left.cells // n_tokens, left.cells % n_tokens
    static = still[left.extras["segment"][left.cells], cell]
    tokens = left.tokens
    if params["merge"] == "mean":
        tokens = merge_alike(features.flatten(0, 1)[None], left.cells[None], left.members[None])[0]
    if params["newline"] == "grid":  # one more token behind every row that holds any; clusters stand in first frames
        order = left.cells.argsort()
        frame, cell, static, tokens = frame[order], cell[order], static[order], tokens[order]
        mine = case.tensors[f"out.{run}.frame"] >= 0
        found = {"frame": frame, "cell": cell, "static": static, "tokens": tokens}
        for key, value in found.items():
            torch.testing.assert_close(value, case.tensors[f"out.{run}.{key}"][mine], atol=2e-5, rtol=1e-4)
    else:
        case.check(run, tokens=tokens, frame=frame, cell=cell, static=static)


@pytest.mark.parametrize(("name", "run"), golden_runs(*CASES, only=lambda run: run[0] == "i"))
def test_golden_inner_stage(name, run):
    case, params = Golden(name), Golden(name).params(run)
    start, count = params["before"], params["visual_tokens"]
    hidden = case.inputs["inner_hidden"]
    states = hidden[:, start : start + count]
    score = case.inputs["inner_attention"].mean(1)[:, 0, start : start + count]
    kept = top_tokens(score, round(count * (1 - params["r"])))
    slot = join_dropped(states, kept)
    removed = torch.tensor(sorted(set(range(count)) - set(kept[0].tolist())))
    text = [*range(start), *range(start + count, hidden.shape[1])]
    places = torch.tensor(sorted([*text, *(kept[0] + start).tolist()]))
    case.check(run, kept=places, removed=removed + start, target=kept[0, slot[0, removed]] + start)
    merged = hidden.clone()
    merged[:, kept[0] + start] = merge_alike(states, kept, slot, shares=one_by_one(slot, kept))
    case.check(run, hidden=merged[:, places])


def test_segments_are_the_best_of_all():
    """Every way to cut seven frames, tried one by one."""
    features = noise(7, 5, 4, seed=3).cumsum(0)
    alike = cosine_similarity(features[1:], features[:-1], dim=-1) > 0.7

    def gone(start, end):
        return int(alike[start:end].all(0).sum()) * (end - start) if end > start else 0

    best = 0
    for cuts in itertools.product([False, True], repeat=6):
        bounds = [0, *(n + 1 for n, cut in enumerate(cuts) if cut), 7]
        best = max(best, sum(gone(a, b - 1) for a, b in itertools.pairwise(bounds)))
    segments = best_segments(merged_tokens(still_runs(features[None], 0.7))[0])
    assert 0 < best == sum(gone(*segment) for segment in segments)
    assert [frame for start, end in segments for frame in range(start, end + 1)] == list(range(7))


def decision_on(videos, keep, **options):
    frames, cells = videos.shape[1:3]
    taps = {"attention": noise(len(videos), 2, frames * cells, seed=1).abs()}
    context = vision_context((frames * cells, 1), videos.flatten(1, 2), taps)
    context.frames = frames
    return HoliTom(**options).prune_vision(context, keep)


def test_the_budget_is_met_and_tokens_are_means_of_their_members():
    video = noise(1, 6, 16, 8, seed=2)
    video[:, :, :8] = video[:, :1, :8]  # half of the places stand still
    for keep in (1, 13, 40):
        decision = decision_on(video, keep)
        kept = decision.keep[0].tolist()
        assert (decision.counts.tolist(), kept) == ([keep], sorted(kept))
        for place, token in enumerate(decision.projected[0]):
            torch.testing.assert_close(token, video.flatten(1, 2)[0, decision.members[0] == place].mean(0))
    of_frames = decision.members[0].view(6, 16) >= 0
    assert of_frames[:, :8].all() and sorted(of_frames[:, 8:].sum(1).tolist()) == [5, 5, 6, 6, 6, 6]


def test_a_still_video_has_fewer_tokens_left_than_it_may():
    still = noise(1, 1, 16, 8).expand(1, 5, 16, 8)
    assert decision_on(still, 40).counts.tolist() == [16] == decision_on(still, 40, variant="release").counts.tolist()
    torch.testing.assert_close(decision_on(still, 40).projected[0], still[0, 0])


@pytest.mark.parametrize("variant", ["paper", "release"])
@pytest.mark.parametrize(
    "video", [torch.zeros(1, 4, 9, 8), torch.ones(1, 4, 9, 8), noise(1, 1, 9, 8), noise(1, 4, 9, 8)]
)
@pytest.mark.parametrize("keep", [1, 5, 8])
def test_one_frame_zero_features_and_few_tokens(variant, video, keep):
    decision = decision_on(video, keep, variant=variant)
    (kept,) = (row[:count].tolist() for row, count in zip(decision.keep, decision.counts, strict=True))
    assert len(kept) == len(set(kept)) and decision.projected.isfinite().all()
    assert variant == "release" or len(kept) == keep


def test_a_batch_of_videos_is_its_rows_alone():
    videos = torch.cat([noise(1, 5, 9, 8, seed=n).cumsum(1) for n in range(3)])
    together = decision_on(videos, 14)
    for row in range(3):
        taps = noise(3, 2, 45, seed=1).abs()[row : row + 1]
        context = vision_context((45, 1), videos[row : row + 1].flatten(1, 2), {"attention": taps})
        context.frames = 5
        alone, count = HoliTom().prune_vision(context, 14), int(together.counts[row])
        assert torch.equal(alone.keep[0], together.keep[row, :count])
        torch.testing.assert_close(alone.projected[0], together.projected[row, :count])


def test_the_budget_pays_for_both_stages():
    pruner = nuwa.load_pruner("holitom", nuwa.pruning.budget.Budget(ratio=0.2))
    schedule = pruner.schedule(6272, 28)
    assert schedule.average(28) == pytest.approx(0.2 * 6272, abs=1)
    assert [layer for layer, _ in schedule.llm] == [18] and schedule.llm[0][1].share == pytest.approx(0.5, abs=1e-3)
    assert nuwa.load_pruner("holitom", inner_keep=1.0).prunes_llm is False
