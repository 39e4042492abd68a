"""EVS, VidCom2, DyCoke and the baselines over time: golden data of published code, slow loops, bad input."""

import pytest
import torch
from helpers.golden_cases import Golden, golden_runs, noise, vision_context
from torch.nn.functional import cosine_similarity

from nuwa.pruners import EVS, DyCoke, FrameDrop, TemporalPool, VidCom2
from nuwa.pruners.vidcom2 import exactly, frame_shares, least_like, likeness_to_means, steady_channels


def context_of(videos):
    """Videos (B, F, N, D) as a method is shown them, every frame a column of tokens."""
    frames, cells = videos.shape[1:3]
    context = vision_context((frames * cells, 1), videos.flatten(1, 2), {})
    context.frames = frames
    return context


def kept_rows(decision):
    """What stays of each video."""
    counts = [decision.keep.shape[1]] * len(decision.keep) if decision.counts is None else decision.counts.tolist()
    return [row[:count].tolist() for row, count in zip(decision.keep, counts, strict=True)]


def per_frame(kept, frames, cells):
    return torch.tensor(kept).div(cells, rounding_mode="floor").bincount(minlength=frames)


@pytest.mark.parametrize(("name", "run"), golden_runs("evs_moving_f8", "evs_cuts_f10"))
def test_evs(name, run):
    case = Golden(name)
    features = case.inputs["video_features"]
    frames, cells = features.shape[:2]
    (kept,) = kept_rows(
        EVS().prune_vision(context_of(features[None]), int(frames * cells * (1 - case.params(run)["q"])))
    )
    mask = torch.zeros(frames * cells, dtype=torch.bool).index_fill(0, torch.tensor(kept), True)
    case.check(run, mask=mask, counts=per_frame(kept, frames, cells))


@pytest.mark.parametrize(
    ("name", "run"), golden_runs("vidcom2_moving_f8", "vidcom2_cuts_f12", only=lambda run: run.startswith("R"))
)
def test_vidcom2(name, run):
    case = Golden(name)
    features, ratio = case.inputs["video_features"], case.params(run)["base_scale"]
    to_video, to_frame = likeness_to_means(features[None])
    share = frame_shares(to_video, ratio)
    case.check(run, channels=steady_channels(features[None])[0], video_score=to_video[0], frame_score=to_frame[0])
    torch.testing.assert_close(share[0], case.tensors[f"out.{run}.scales"], atol=1e-3, rtol=0)
    stays = least_like(to_video, to_frame, ratio)
    case.check(run, counts=stays[0].sum(1), indices=stays.flatten().nonzero()[:, 0])


@pytest.mark.parametrize(
    ("name", "run"), golden_runs("vidcom2_cuts_f12", only=lambda run: run.startswith("llava_video"))
)
def test_vidcom2_beside_newlines(name, run):
    """The authors number 13 x 13 patches with a newline behind each row; newlines are none of a method's."""
    case = Golden(name)
    stays = least_like(*likeness_to_means(case.inputs["video_features_13"][None]), case.params(run)["base_scale"])
    case.check(run, counts=stays[0].sum(1))
    theirs = case.tensors[f"out.{run}.indices"]
    frame, row, column = theirs // 182, theirs % 182 // 14, theirs % 14
    patches = (169 * frame + 13 * row + column)[column < 13]
    assert torch.equal(stays.flatten().nonzero()[:, 0], patches.sort().values)


@pytest.mark.parametrize(("name", "run"), golden_runs("vidcom2_vllm_moving_f8", "vidcom2_vllm_cuts_f12"))
def test_vidcom2_of_vllm_meets_the_budget(name, run):
    case = Golden(name)
    params, (to_video, to_frame) = case.params(run), likeness_to_means(case.inputs["video_features"][None])
    stays, score = least_like(to_video, to_frame, 1 - params["q"]), to_video + to_frame
    assert stays.sum() == params["before_adjusting"]
    kept = exactly(stays.flatten(1), score.flatten(1), params["announced"])
    mask = torch.zeros_like(stays).flatten().index_fill(0, kept[0], True)
    case.check(run, mask=mask, counts=mask.view_as(stays[0]).sum(1))


@pytest.mark.parametrize(("name", "run"), golden_runs("dycoke_moving_f12", "dycoke_cuts_f9"))
def test_dycoke(name, run):
    case = Golden(name)
    features = case.inputs["video_features"]
    frames, cells = features.shape[:2]
    each = int((1 - case.params(run)["merging_ratio"]) * cells)
    whole = len([f for f in range(frames - frames % 2) if f % 2 == 0 and f not in (2, 6)])
    thinned = frames - frames % 2 - whole
    (kept,) = kept_rows(
        DyCoke(variant="release").prune_vision(context_of(features[None]), whole * cells + thinned * each)
    )
    case.check(run, indices=torch.tensor(kept), kept=torch.tensor(sorted(kept)), counts=per_frame(kept, frames, cells))


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5, 7, 8])
def test_dycoke_thins_three_of_four_frames(frames):
    """A slow loop over the paper's windows of four; a frame without a partner stays whole."""
    video, cells, each = noise(1, frames, 6, 8), 6, 2
    expected = []
    for frame in range(frames):
        other = frame - 2 if frame % 4 == 2 else frame - 1
        alike = cosine_similarity(video[0, frame], video[0, other], dim=-1)
        places = range(cells) if frame % 4 == 0 else sorted(alike.argsort()[:each].tolist())
        expected += [frame * cells + place for place in places]
    whole = -(-frames // 4)
    (kept,) = kept_rows(DyCoke().prune_vision(context_of(video), whole * cells + (frames - whole) * each))
    assert kept == expected


@pytest.mark.parametrize(
    ("keep", "frames"), [(3, [2]), (11, [2]), (13, [1, 4]), (24, [0, 2, 4]), (48, [0, 1, 2, 3, 4, 5])]
)
def test_frames_are_dropped_at_equal_distances(keep, frames):
    (kept,) = kept_rows(FrameDrop().prune_vision(context_of(noise(1, 6, 8, 3)), keep))
    assert [token % 8 for token in kept] == list(range(8)) * len(frames)
    assert [token // 8 for token in kept[::8]] == frames


@pytest.mark.parametrize(
    ("keep", "groups"), [(8, [[0, 1, 2, 3, 4]]), (15, [[0, 1], [2, 3, 4]]), (39, [[0], [1], [2], [3], [4]])]
)
def test_pooled_frames_are_means_of_their_frames(keep, groups):
    video = noise(2, 5, 8, 3)
    decision = TemporalPool().prune_vision(context_of(video), keep)
    assert torch.equal(decision.keep[0], decision.keep[1])
    for place, group in enumerate(groups):
        mine = slice(8 * place, 8 * place + 8)
        torch.testing.assert_close(decision.projected[:, mine], video[:, group].mean(1))
        assert set((decision.keep[0, mine] // 8).tolist()) <= set(group)
        members = [[f * 8 + cell for f in group] for cell in range(8)]
        assert [(decision.members[0] == n).nonzero()[:, 0].tolist() for n in range(8 * place, 8 * place + 8)] == members


METHODS = [
    EVS,
    VidCom2,
    lambda: VidCom2(variant="vllm"),
    DyCoke,
    lambda: DyCoke(variant="release"),
    FrameDrop,
    TemporalPool,
]


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_of_videos_is_its_rows_alone(method):
    videos = torch.cat([noise(1, 6, 9, 8), noise(1, 6, 9, 8, seed=1).cumsum(1), noise(1, 6, 9, 8, seed=2).abs()])
    together = kept_rows(method().prune_vision(context_of(videos), 20))
    alone = [kept_rows(method().prune_vision(context_of(video[None]), 20))[0] for video in videos]
    assert together == alone


@pytest.mark.parametrize("method", METHODS)
def test_a_picture_is_a_video_of_one_frame(method):
    """Methods that compare frames, or drop them, keep it whole."""
    (kept,) = kept_rows(method().prune_vision(context_of(noise(1, 1, 9, 8)), 4))
    assert len(kept) == (4 if isinstance(method(), VidCom2) else 9) == len(set(kept))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "video", [torch.zeros(1, 4, 9, 8), torch.ones(1, 4, 9, 8), noise(1, 1, 9, 8).expand(1, 4, 9, 8)]
)
@pytest.mark.parametrize("keep", [1, 12, 36])
def test_zero_features_still_videos_and_any_budget(method, video, keep):
    """Unique tokens, one or more; where nothing differs the lower places stay."""
    (kept,) = kept_rows(method().prune_vision(context_of(video), keep))
    assert 1 <= len(kept) == len(set(kept)) and max(kept) < 36
    assert keep < 36 or len(kept) == 36
    if method is EVS and keep == 12:
        assert kept == list(range(12))


def test_a_moving_object_stays_where_it_goes():
    """A still scene with one token that wanders: EVS keeps the first frame, and what the object covers and uncovers."""
    scene, thing = noise(1, 1, 16, 8), noise(8, seed=5)
    video = scene.expand(1, 5, 16, 8).clone()
    for frame in range(5):
        video[0, frame, 3 * frame] = thing
    (kept,) = kept_rows(EVS().prune_vision(context_of(video), 16 + 8))
    assert kept[16:] == [16 * f + cell for f in range(1, 5) for cell in (3 * f - 3, 3 * f)]
