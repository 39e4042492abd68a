"""What the page is told of a picture: against the session's report, and against ids and weights found one by one."""

from math import ceil

import pytest
from helpers.families_toy import toy
from PIL import Image

from nuwa import load_pruner, prune
from nuwa.explore.decisions import plain_trace
from nuwa.pictures.traces import trace_decisions
from nuwa.pruning.budget import Budget
from nuwa.samples import Sample, Video

FAMILIES = ("llava", "llava_next", "qwen2_5_vl")


def noise(size=(150, 84)):
    return Image.effect_noise(size, 80).convert("RGB")


def written_out(values):
    """The whole numbers that a packed list stands for."""
    if isinstance(values, list):
        return values
    runs = [values["runs"][at : at + 3] for at in range(0, len(values["runs"]), 3)]
    return [first + n * step for first, step, count in runs for n in range(count)]


def told(family, method, budget=None, **options):
    """The plain trace of one picture, and the session's report about it."""
    loaded = toy(family, weights_boost=3.0)
    pruner = load_pruner(method, budget or (Budget(average=10) if family == "llava" else Budget(ratio=0.5)), **options)
    with prune(loaded.model, pruner) as session:
        (trace,) = trace_decisions(session, loaded, Sample("one", "vqa", (noise(),), "is it red?", ("yes",)))
        return plain_trace(trace, first=3), session.report().images[0], session.strategy


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["nuwa", "visionzip", "fastv", "none"])
def test_tokens_leave_when_the_report_says(family, method):
    budget = Budget() if method == "none" else None
    plain, report, strategy = told(family, method, budget)
    assert plain["tokens"] == report.n_tokens
    assert [stage["layer"] for stage in plain["stages"]] == [layer for layer, _, _ in report.stages]
    for stage, (layer, kept, positions) in zip(plain["stages"], report.stages, strict=True):
        there = [token for token, left in enumerate(plain["left"]) if left < 0 or left > layer]
        assert there == sorted(kept)
        by_token = dict(zip(kept, positions, strict=True))
        assert written_out(stage["ids"][strategy][0]) == [by_token[token] for token in there]
    cells = [token for view in plain["views"] for token in written_out(view["cells"])]
    assert len(set(cells)) == len(cells) == sum(view["grid"][0] * view["grid"][1] for view in plain["views"])
    assert all(view["picture"] == 3 for view in plain["views"])


def test_ids_of_one_axis_by_hand():
    """Text, then the picture: renumbered, original and stretched ids, in both stages."""
    plain, report, _ = told("llava", "nuwa")
    (start,), last = plain["start"], plain["tokens"] - 1
    assert len(plain["stages"]) == 2
    for stage, (_, kept, _) in zip(plain["stages"], report.stages, strict=True):
        there = sorted(kept)
        stretched = [0 if token == there[0] else ceil(token * last / there[-1]) for token in there]
        assert written_out(stage["ids"]["pesp"][0]) == [start + token for token in there]
        assert written_out(stage["ids"]["perc"][0]) == [start + kept.index(token) for token in there]
        assert written_out(stage["ids"]["rpme"][0]) == [start + offset for offset in stretched]


def test_ids_of_three_axes_by_hand():
    """M-RoPE: a picture's tokens share the first axis, the others are row and column."""
    plain, _, _ = told("qwen2_5_vl", "visionzip")
    (view,), (time, row, column) = plain["views"], plain["start"]
    there = [token for token, left in enumerate(plain["left"]) if left < 0]
    places = [divmod(token, view["grid"][1]) for token in there]
    axes = [[time] * len(there), [row + down for down, _ in places], [column + across for _, across in places]]
    assert [written_out(axis) for axis in plain["stages"][0]["ids"]["pesp"]] == axes


def test_links_of_a_merged_token_are_its_members():
    """VisionZip takes the mean of what went into a token: as many equal weights as the tokens that say so."""
    plain, _, _ = told("llava", "visionzip")
    (view,), into = plain["views"], written_out(plain["into"])
    assert view["links"]
    for collector, links in view["links"].items():
        members = [token for token, where in enumerate(into) if where == int(collector)]
        shown = dict(zip(links[::2], links[1::2], strict=True))
        assert set(shown) <= set(members) and len(shown) == min(12, len(members))
        assert set(shown.values()) == {round(1000 / len(members))}
    dropped = [token for token, left in enumerate(plain["left"]) if left == 0]
    assert all(into[token] != token for token in dropped)


def test_scores_are_the_methods_own_by_cell():
    loaded, seen = toy("llava_next", weights_boost=3.0), []
    pruner = load_pruner("nuwa", Budget(ratio=0.5))
    decide = pruner.prune_vision

    def spy(context, keep):
        seen.append(decide(context, keep))
        return seen[-1]

    pruner.prune_vision = spy
    with prune(loaded.model, pruner) as session:
        (trace,) = trace_decisions(session, loaded, Sample("one", "vqa", (noise(),), "is it red?", ("yes",)))
    for view, decision in zip(plain_trace(trace, 0)["views"], seen, strict=True):
        assert view["scores"]["salience"] == pytest.approx(decision.extras["salience"][0].tolist(), rel=5e-3)


def test_scores_of_a_later_stage_are_of_what_the_stage_before_let_in():
    loaded, pruner = toy("llava", weights_boost=3.0), load_pruner("nuwa", Budget(average=10))
    with prune(loaded.model, pruner) as session:
        (trace,) = trace_decisions(session, loaded, Sample("one", "vqa", (noise(),), "is it red?", ("yes",)))
    plain = plain_trace(trace, first=0)
    before, inside = plain["stages"]
    assert not before["scores"] and list(inside["scores"]) == ["score"]
    scored = [token for token, score in enumerate(inside["scores"]["score"]) if score is not None]
    assert scored == sorted(trace.stages[0].kept) and len(inside["scores"]["score"]) == plain["tokens"]
    numbers = [inside["scores"]["score"][token] for token in scored]
    assert numbers == pytest.approx(trace.stages[1].scores["score"][scored].tolist(), rel=1e-5)
    worst = min(score for token, score in zip(scored, numbers, strict=True) if plain["left"][token] < 0)
    assert sum(score >= worst for score in numbers) == len(trace.stages[1].kept)


def test_a_video_is_a_view_for_every_frame():
    frames = tuple(noise((60, 40)) for _ in range(5))
    clip = Video(frames, tuple(0.5 * n for n in range(5)))
    loaded = toy("llava_onevision", weights_boost=3.0)
    sample = Sample("one", "vqa", (frames[0],), "what happens?", "nothing", videos=(clip,))
    with prune(loaded.model, load_pruner("temporal_pool", Budget(ratio=0.4))) as session:
        _, trace = trace_decisions(session, loaded, sample)
        report = session.report().images[1]
    plain = plain_trace(trace, first=1)
    assert [view["picture"] for view in plain["views"]] == [1, 2, 3, 4, 5]
    assert [view["time"] for view in plain["views"]] == list(clip.times)
    assert [view["segment"] for view in plain["views"]] == [0, 0, 1, 1, 1]
    there = [token for token, left in enumerate(plain["left"]) if left < 0]
    assert there == sorted(report.stages[-1][1])
    cells = [written_out(view["cells"]) for view in plain["views"]]
    into = written_out(plain["into"])
    assert [into[frame[0]] for frame in cells] == [cells[0][0]] * 2 + [cells[3][0]] * 3
