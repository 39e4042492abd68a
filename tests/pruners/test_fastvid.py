"""FastVID against golden data of the authors' three files, and what these do not pin."""

from __future__ import annotations

import pytest
import torch
from helpers.golden_cases import Golden, golden_runs, noise, vision_context

from nuwa.pruners import FastVID
from nuwa.pruning.cuts import frame_similarity, segment_numbers

ONEVISION = [f"fastvid_{name}" for name in ("f8", "moving_f9", "cuts_f16", "static_f8")]
VARIANTS = dict.fromkeys(ONEVISION, "onevision") | {"fastvid_qwen_f12": "qwen", "fastvid_llavavideo_f64": "paper"}
"""The golden cases, and what the authors' file that made each is called here."""


@pytest.mark.parametrize(("name", "run"), golden_runs(*VARIANTS))
def test_the_authors_files(name, run):
    case = Golden(name)
    params, features = case.params(run), case.inputs["video_features"]
    options = {
        "segments": params["DySeg_c"],
        "cut_below": params["DySeg_tau"],
        "context": params["STPrune_d"],
        "every": params["DTM_p"],
        "own": params["DTM_beta"],
        "same_from": params.get("DySeg_ignore", 0.95),
    }
    pruner = FastVID(variant=VARIANTS[name], **options)
    keep = len(features) * int(features.shape[1] * params["retention_ratio"])
    left = pruner.reduce(features, case.inputs["attention"], case.inputs["frame_global"], keep)
    cells, tokens = left.cells, left.tokens
    if "newline" in case.inputs:  # which stays with its row of 13
        row = cells // 13
        lines = row.unique()
        cells = torch.cat([cells + row, 14 * lines + 13])
        tokens = torch.cat([tokens, case.inputs["newline"][0].expand(len(lines), -1)])[cells.argsort()]
        cells = cells.sort().values
    segment = segment_numbers(frame_similarity(case.inputs["frame_global"]), pruner.cut_below, pruner.segments)
    case.check(run, indices=cells, tokens=tokens, segment_lengths=segment.bincount())


def video(features, attention=None):
    """The context of videos (B, F, M, D), one head of attention each."""
    videos, frames, n_tokens = features.shape[:3]
    attention = noise(videos, 1, frames * n_tokens, seed=9).sigmoid() if attention is None else attention
    context = vision_context((frames, n_tokens), features.flatten(1, 2), {"attention": attention})
    context.frames = frames
    return context


@pytest.mark.parametrize("frames", [1, 2, 5, 9])
@pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 0.97])
@pytest.mark.parametrize("variant", ["paper", "onevision", "qwen"])
def test_any_budget_is_spent(frames, share, variant):
    """On noise, still frames and empty ones; where the authors' code fails, too. Their files lose what is over."""
    keep = max(1, int(frames * 24 * share))
    for features in (noise(frames, 24, 8), noise(1, 24, 8).expand(frames, -1, -1), torch.zeros(frames, 24, 8)):
        pruner = FastVID(variant=variant, segments=2 if frames == 9 else 8)
        decision = pruner.prune_vision(video(features[None]), keep)
        kept, members = decision.keep[0], decision.members[0]
        assert len(kept) == keep if variant == "paper" else 1 <= len(kept) <= max(keep, frames)
        assert bool((kept.diff() > 0).all()) and torch.equal(members[kept], torch.arange(len(kept)))
        assert torch.equal(decision.projected[0], decision.weights[0] @ features.flatten(0, 1))
        torch.testing.assert_close(decision.weights[0].sum(1), torch.ones(len(kept)))
        assert bool((decision.sizes >= 1).all())


def test_what_merges_into_an_anchor():
    """Three frames, anchors in the last: salient tokens stay as they are, the others go to the nearest anchor."""
    features, attention = noise(3, 10, 6), noise(3, 10, seed=1)
    pruner = FastVID(segments=1, cut_below=-1.0, own=0.25)
    left = pruner.reduce(features, attention, noise(3, 6), 12)
    whole, kept = features.flatten(0, 1), left.cells.tolist()
    salient = {
        10 * f + int(i) for f, count in enumerate((3, 3, 2)) for i in attention[f].sort().indices.flip(0)[:count]
    }
    anchors = sorted(set(kept) - salient)
    assert salient <= set(kept) and len(anchors) == 4 and min(anchors) >= 20
    near = {
        token: max(anchors, key=lambda anchor: float(torch.cosine_similarity(whole[token], whole[anchor], dim=0)))
        for token in range(30)
        if token not in kept
    }
    for token, made in zip(kept, left.tokens, strict=True):
        came = [other for other, anchor in near.items() if anchor == token]
        assert all(int(left.members[other]) == kept.index(token) for other in came)
        own = max(0.25, 1 / (len(came) + 1))
        mean = whole[came].mean(0) if came else whole[token]
        torch.testing.assert_close(made, own * whole[token] + (1 - own) * mean)


def test_a_batch_of_videos_is_the_videos_alone():
    features, attention, pruner = (
        noise(3, 6, 25, 8, seed=4),
        noise(3, 2, 150, seed=5).sigmoid(),
        FastVID(variant="qwen", segments=2),
    )
    features[1] = features[1, :1]
    decision = pruner.prune_vision(video(features, attention), 40)
    assert len(set(decision.counts.tolist())) > 1
    for i, count in enumerate(decision.counts.tolist()):
        alone = pruner.prune_vision(video(features[i : i + 1], attention[i : i + 1]), 40)
        assert torch.equal(decision.keep[i, :count], alone.keep[0])
        assert torch.equal(decision.projected[i, :count], alone.projected[0])


@pytest.mark.parametrize("options", [{"context": 1.5}, {"own": -0.1}, {"segments": 0}, {"every": 0}])
def test_options_out_of_range_are_named(options):
    with pytest.raises(ValueError, match=rf"pruner.{next(iter(options))} must be"):
        FastVID(**options)
