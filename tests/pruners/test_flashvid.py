"""FlashVID against golden data of the authors' code and of a slow reference of the paper, and what these do not pin."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.golden_cases import Golden, after, golden_runs, noise, prompt, vision_context

from nuwa.pruners import FlashVID
from nuwa.pruners.flashvid import adts, event_relevance
from nuwa.pruning.budget import Budget
from nuwa.pruning.cuts import frame_similarity, segment_numbers
from nuwa.pruning.selection import top_tokens
from nuwa.pruning.trees import hang

RELEASED = [f"flashvid_{name}" for name in ("f4", "f8", "moving_f8", "static_f6", "cuts_f16", "peaky_f12", "single_f1")]
PAPER = ("flashvid_paper_moving_f6", "flashvid_paper_static_f5")


def runs(kind, names=RELEASED):
    return pytest.mark.parametrize(("name", "run"), golden_runs(*names, only=lambda run: run.startswith(kind)))


def one_segment(case):
    return torch.zeros(len(case.inputs["video_features"]), dtype=torch.long)


def weights(case, method, segment):
    """What the authors' selection methods weigh tokens with."""
    attention, features = case.inputs["attention"], case.inputs["video_features"]
    if method == "attn_div_v2":
        return attention * event_relevance(features, segment)
    return torch.ones_like(attention) if method == "div" else attention


@runs("adts")
def test_adts(name, run):
    case = Golden(name)
    params, segment = case.params(run), one_segment(case)
    weight = weights(case, params["method"], segment)
    picks = top_tokens(weight, params["keep"])
    if params["method"] != "attn":
        picks = adts(case.inputs["video_features"], weight, params["keep"]).sort().values
    case.check(run, indices=picks)


@runs("segment")
def test_segments(name, run):
    case = Golden(name)
    similarity = frame_similarity(case.inputs["video_features"].mean(1))
    numbers = segment_numbers(similarity, case.params(run)["threshold"], case.params(run)["min_segments"])
    case.check(run, lengths=numbers.bincount())


@runs("tstm")
def test_trees(name, run):
    case = Golden(name)
    params, segment, features = case.params(run), one_segment(case), case.inputs["video_features"]
    frames, n_tokens = features.shape[:2]
    picks = adts(features, weights(case, "attn_div_v2", segment), params["num_adts"])
    free = torch.ones(frames, n_tokens, dtype=torch.bool).scatter(1, picks, False)
    most = torch.full((frames,), n_tokens - params["num_adts"] - params["num_sttm"])
    root, share = hang(features, free, segment, most, params["threshold"], release=True)
    tree = torch.zeros_like(features).flatten(0, 1).index_add(0, root, share[:, None] * features.flatten(0, 1))
    alive = free & (root == torch.arange(len(root))).view_as(free)
    case.check(run, token_mask=free, counts=alive.sum(1), tokens=tree[alive.flatten()], indices=alive.nonzero()[:, 1])


def full(case, run):
    params = case.params(run)
    features, attention = case.inputs["video_features"], case.inputs["attention"]
    segment = one_segment(case)
    if params.get("do_segment", True):
        similarity = frame_similarity(features.mean(1))
        segment = segment_numbers(similarity, params["segment_threshold"], params["min_segment_num"])
    relevance = params.get("token_selection_method", "attn_div_v2") == "attn_div_v2"
    pruner = FlashVID(variant="release", relevance=relevance, link_above=params["temporal_threshold"])
    counts = ([params[key]] * len(features) for key in ("num_adts", "num_sttm"))
    return pruner.reduce(features, attention, segment, *counts), params


@runs("full")
def test_the_whole_vision_stage(name, run):
    """Where indices repeat, the later one of a pair names a dropped token; of the pair, the shorter vector is first."""
    case = Golden(name)
    left, params = full(case, run)
    indices = case.tensors[case.runs[run]["outputs"]["indices"]["tensor"]]
    assert bool((left.cells == indices).all()) is not params["has_duplicate_indices"]
    assert len(left.cells.unique()) == len(left.cells)
    assert bool(((left.cells == indices)[1:] | (indices.diff() == 0)).all())
    order = sorted(range(len(indices)), key=lambda i: (int(indices[i]), float(left.tokens[i].norm())))
    case.check(run, tokens=left.tokens[order], indices=indices)


@runs("inner")
def test_the_inner_stage(name, run):
    case = Golden(name)
    params = case.params(run)
    rows = case.tensors[case.runs[run]["outputs"]["attention"]["tensor"]]
    before = prompt(params["before"], params["visual_tokens"], params["after"], rows=rows[:, :, 0])
    pruner = FlashVID(inner_keep=params["llm_retention_ratio"])
    keep = math.ceil(params["visual_tokens"] * params["llm_retention_ratio"])
    kept = pruner.prune_llm(after(before), torch.tensor([[keep]]))
    case.check(run, kept=(kept | (before.image < 0))[0].nonzero()[:, 0])


@runs("paper", PAPER)
def test_the_papers_definition(name, run):
    case = Golden(name)
    params, segment, features = case.params(run), one_segment(case), case.inputs["video_features"]
    weight = weights(case, "attn_div_v2" if params.get("event_relevance", True) else "attn_div", segment)
    picks = adts(features, weight, params["keep"])
    if "threshold" not in params:
        case.check(run, indices=picks.sort().values)
        return
    free = torch.ones(features.shape[:2], dtype=torch.bool).scatter(1, picks, False)
    root, share = hang(features, free, segment, torch.full((len(features),), features.shape[1]), params["threshold"])
    tree = torch.zeros_like(features).flatten(0, 1).index_add(0, root, share[:, None] * features.flatten(0, 1))
    found = root[free.flatten()].unique()
    sizes = root[free.flatten()].bincount()[found]
    shown = root.masked_fill(~free.flatten(), -1).view_as(free)
    case.check(run, token_mask=free, root=shown, roots=found, sizes=sizes, tokens=tree[found])


def video(features, frames, attention=None):
    """The context of one video (F, M, D) with one head of attention."""
    n_tokens = features.shape[1]
    attention = noise(1, 1, frames * n_tokens, seed=9).sigmoid() if attention is None else attention
    context = vision_context((frames, n_tokens), features.flatten(0, 1)[None], {"attention": attention})
    context.frames = frames
    return context


def test_every_part_of_a_moving_object_hangs_on_one_of_its_tokens():
    """The object is elsewhere in every frame, and no token of the background joins it."""
    case = Golden("flashvid_paper_moving_f6")
    context = video(case.inputs["video_features"], 6, case.inputs["attention"].flatten()[None, None])
    decision = FlashVID(segments=1, cut_below=-1.0).prune_vision(context, 60)
    tree, moving = decision.extras["tree"][0], case.inputs["object_mask"].flatten()
    assert torch.equal(moving[tree], moving)
    hanging = moving & (tree != torch.arange(len(tree)))
    assert int(hanging.sum()) == 10 and len(tree[hanging].unique()) == 2
    cells = hanging.nonzero()[:, 0] % 42
    assert len(cells.unique()) > 2 and not set(cells.tolist()) <= set((tree[hanging] % 42).tolist())


def test_a_still_clip_has_one_tree_per_cell():
    """But for the two cells that ADTS takes out in every frame alike; with one cluster for each tree, it is a mean."""
    still = noise(1, 20, 16).expand(5, -1, -1) + 1e-3 * noise(5, 20, 16, seed=1)
    attention = torch.rand(20, generator=torch.Generator().manual_seed(2)).repeat(5)[None, None]
    pruner = FlashVID(segments=1)
    left = pruner.reduce(still, attention.view(5, 20), torch.zeros(5, dtype=torch.long), [2] * 5, [4, 4, 4, 3, 3])
    tree = left.extras["tree"].view(5, 20)
    chosen = (tree == torch.arange(100).view(5, 20)).all(0)
    assert int(chosen.sum()) == 2
    assert torch.equal(tree[:, ~chosen], torch.arange(20)[~chosen].expand(5, -1))
    roots = left.cells[left.cells < 20]
    assert roots.tolist() == list(range(20)) and len(left.cells) == 28
    for cell in torch.arange(20)[~chosen].tolist():
        assert left.members.view(5, 20)[:, cell].tolist() == [cell] * 5
        torch.testing.assert_close(left.tokens[cell], still[:, cell].mean(0))


@pytest.mark.parametrize("frames", [1, 2, 3, 9])
@pytest.mark.parametrize("keep", [1, 3, 7, 20, 26])
@pytest.mark.parametrize("relevance", [True, False])
def test_the_papers_variant_keeps_what_is_asked_for(frames, keep, relevance):
    """Of noise, of still frames and of empty ones; fewer frames than segments, fewer tokens than frames."""
    keep = min(keep * frames, 27 * frames - 1) if keep > 3 else keep
    for features in (noise(frames, 27, 8), noise(1, 27, 8).expand(frames, -1, -1), torch.zeros(frames, 27, 8)):
        decision = FlashVID(relevance=relevance).prune_vision(video(features, frames), keep)
        kept, members = decision.keep[0], decision.members[0]
        assert decision.counts.tolist() == [keep] and bool((kept.diff() > 0).all())
        assert torch.equal(members[kept], torch.arange(keep)) and bool(decision.projected.isfinite().all())
        made = torch.zeros(keep, 8).index_add(
            0, members[members >= 0], (decision.shares[0, :, None] * features.flatten(0, 1))[members >= 0]
        )
        torch.testing.assert_close(decision.projected[0], made, atol=1e-6, rtol=1e-5)
        sums = torch.zeros(keep).index_add(0, members[members >= 0], decision.shares[0][members >= 0])
        torch.testing.assert_close(sums, torch.ones(keep))


def test_links_give_way_to_the_budget():
    """Of a still video hardly a token would be left: then as many stay as are asked for, and weak links go first."""
    still = noise(1, 30, 16).expand(4, -1, -1) + torch.tensor([0, 1e-3, 2e-3, 0.4])[:, None, None] * noise(4, 30, 16)
    decision = FlashVID(segments=1, alpha=0.1, link_above=0.0).prune_vision(video(still, 4), 100)
    tree = decision.extras["tree"][0].view(4, 30)
    linked = (tree != torch.arange(120).view(4, 30)).sum(1).tolist()
    assert linked == [0, 0, 0, 0] or (linked[1] >= linked[3] and sum(linked) == 20)


def test_batches_of_videos_are_the_videos_alone():
    features, pruner = noise(3, 4, 25, 8, seed=4), FlashVID(variant="release", cut_below=0.0, segments=2)
    features[1] = features[1, :1]
    attention = noise(3, 2, 100, seed=5).sigmoid()
    context = vision_context((20, 5), features.flatten(1, 2), {"attention": attention})
    context.frames = 4
    decision = pruner.prune_vision(context, 30)
    for i, count in enumerate(decision.counts.tolist()):
        alone = pruner.prune_vision(video(features[i], 4, attention[i : i + 1]), 30)
        assert torch.equal(decision.keep[i, :count], alone.keep[0]) and len(set(alone.keep[0].tolist())) == count
        assert torch.equal(decision.projected[i, :count], alone.projected[0])
        assert torch.equal(decision.members[i], alone.members[0])


@pytest.mark.parametrize(("ratio", "entering", "inside"), [(0.1, 784, 235), (0.25, 1960, 588), (0.9, 6272, 4077)])
def test_the_budget_is_the_average_over_layers(ratio, entering, inside):
    """The authors' 1.25; where more would enter than there are, all do, and the inner stage spends the budget."""
    schedule = FlashVID(budget=Budget(ratio=ratio)).schedule(6272, 28)
    assert (schedule.vision, schedule.llm) == (entering, ((20, inside),))
    assert FlashVID(budget=Budget(ratio=ratio), inner_keep=1).schedule(6272, 28).vision == round(6272 * ratio)
    released = FlashVID(budget=Budget(ratio=ratio), variant="release").schedule(6272, 28)
    assert released.stages(6272 if ratio == 0.9 else 800)[20] == (inside if ratio == 0.9 else 240)


def test_qwen3_vl_enters_as_many():
    pruner = FlashVID(budget=Budget(ratio=0.2), inner_layer=28 / 36, inner_keep=0.1)
    assert pruner.schedule(4000, 36).vision == 1000 and pruner.schedule(4000, 36).llm == ((28, 100),)


def test_a_full_budget_keeps_all():
    context = video(noise(3, 9, 8), 3)
    assert FlashVID().schedule(27, 28).llm == ()
    assert torch.equal(FlashVID().prune_vision(context, 27).keep, torch.arange(27)[None])


def test_the_authors_settings_go_with_the_model():
    """v2 and 8 segments on one axis of ids, v1 and 4 segments under M-RoPE; what is set stays."""
    moving = noise(1, 20, 16) + 0.3 * noise(9, 20, 16, seed=3)  # trees reach through all frames of a segment
    one, three = video(moving, 9), video(moving, 9)
    three.axes = 3
    found = {
        name: FlashVID(cut_below=-1.0, **options).prune_vision(context, 45).keep.tolist()
        for name, context, options in (
            ("llava", one, {}),
            ("v2", three, {"segments": 8, "relevance": True}),
            ("qwen", three, {}),
            ("v1", one, {"segments": 4, "relevance": False}),
            ("segments", three, {"relevance": True}),
            ("weight", three, {"segments": 8}),
        )
    }
    assert found["llava"] == found["v2"] and found["qwen"] == found["v1"]
    assert found["qwen"] not in (found["segments"], found["weight"], found["llava"])


@pytest.mark.parametrize("options", [{"alpha": 0}, {"inner_keep": 0}, {"inner_layer": 1}, {"segments": 0}])
def test_options_out_of_range_are_named(options):
    with pytest.raises(ValueError, match=rf"pruner.{next(iter(options))} must be"):
        FlashVID(**options)
