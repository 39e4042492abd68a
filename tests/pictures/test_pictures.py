"""Pictures: what is drawn lies where independent arithmetic says, for every family's grids and frames."""

import numpy as np
import pytest
import torch
from helpers.families_toy import toy
from helpers.jobs import small
from PIL import Image, ImageColor, ImageDraw

from nuwa import load_pruner, prune
from nuwa.evaluation.run import run_job
from nuwa.pictures.canvas import COLLECTOR, COORDINATE, GAP, KEPT, MOVED, PILLAR, PREDICTED, Panel
from nuwa.pictures.captions import legend, title_lines
from nuwa.pictures.drawing import choose_collector, draw_trace, id_moves, kept_patches, original_panel, stage_panel
from nuwa.pictures.text import INK, LINE_HEIGHT, Phrase, cross, text_block, tick, width_of, wrapped
from nuwa.pictures.traces import id_locations, token_locations, trace_decisions
from nuwa.pruning.budget import Budget
from nuwa.pruning.coordinates import Coordinates
from nuwa.pruning.layout import ImageLayout, VisionView
from nuwa.report.pictures import main
from nuwa.samples import Sample

FAMILIES = ("llava", "llava_next", "llava_onevision", "qwen2_5_vl")
SIZE, BOX = (150, 84), (0.4, 0.3, 0.7, 0.8)


def colour(name):
    return ImageColor.getrgb(name)


def planted():
    """A grey picture whose box is pure green."""
    picture = Image.new("RGB", SIZE, (90, 90, 90))
    corners = [round(value * side) for value, side in zip(BOX, SIZE * 2, strict=True)]
    ImageDraw.Draw(picture).rectangle((*corners[:2], corners[2] - 1, corners[3] - 1), fill=(0, 255, 0))
    return picture


def traces(family, pruner="nuwa", position="native", **options):
    loaded = toy(family, weights_boost=3.0)
    sample = Sample("one", "vg", (planted(),), "where is the dog?", BOX)
    method = load_pruner(pruner, Budget(average=8) if family == "llava" else Budget(ratio=0.5), **options)
    with prune(loaded.model, method, position) as session:
        (trace,) = trace_decisions(session, loaded, sample)
        report = session.report().images[0]
    return trace, report, method


@pytest.mark.parametrize("family", FAMILIES)
def test_a_planted_box_lies_under_its_drawn_frame_in_every_view(family):
    trace, _, _ = traces(family, "random")
    for view in trace.views:
        panel = Panel(trace.picture, view.frame, view.view.grid, "")
        pixels = np.asarray(panel.clear).astype(int)
        rows, columns = np.nonzero((pixels[..., 1] > 180) & (pixels[..., 0] < 60))
        found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        x0, y0, x1, y1 = BOX
        if family == "llava":  # 150 x 84 in the middle of 150 x 150
            y0, y1 = (33 + y0 * 84) / 150, (33 + y1 * 84) / 150
            assert panel.clear.getpixel((5, 5)) == colour("#7F7F7F")  # grey padding
        wide, high = panel.size
        tolerance = 0.75 * panel.patch if view.view.tiles != (1, 1) else 3  # tiles: whole rows of tokens only
        for got, wanted in zip(found, (x0 * wide, y0 * high, x1 * wide, y1 * high), strict=True):
            assert abs(got - wanted) <= tolerance
        panel.box((0.2, 0.4, 0.6, 0.9), PREDICTED, dashed=False)
        assert panel.image.getpixel((round(0.2 * wide), round(0.6 * high))) == colour(PREDICTED)
        assert panel.image.getpixel((round(0.4 * wide), round(0.9 * high) - 1)) == colour(PREDICTED)


@pytest.mark.parametrize("family", FAMILIES)
def test_kept_cells_are_the_reports(family):
    trace, report, _ = traces(family)
    assert [(stage.layer, stage.kept) for stage in trace.stages] == [(layer, kept) for layer, kept, _ in report.stages]
    assert trace.stages[0].ids[trace.position][0].tolist() == report.stages[0][2]
    kept, total = set(report.stages[0][1]), 0
    for number, view in enumerate(trace.views):
        patches = kept_patches(trace, number, trace.stages[0].kept)
        assert patches == [patch for patch, token in enumerate(view.view.tokens.tolist()) if token in kept]
        total += len(patches)
        panel = stage_panel(trace, number, 0, {})
        for patch in range(len(view.view.tokens)):
            x0, y0, x1, y1 = panel.box_of(patch)
            inside = (x0 + 3 * (x1 - x0) // 4, y0 + 3 * (y1 - y0) // 4)
            assert (x0, y0) == (patch % view.view.grid[1] * panel.patch, patch // view.view.grid[1] * panel.patch)
            if patch not in patches:
                assert panel.image.getpixel(inside) != panel.clear.getpixel(inside)
    newlines = set((trace.layout.source < 0).nonzero()[:, 0].tolist())
    assert total == len(kept - newlines)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["nuwa", "nuwa_release", "nuwa_release_qwen", "pooling"])
def test_links_are_the_weights_that_made_the_features(family, method):
    """A collector's weights times the features are what the method put in its place."""
    loaded = toy(family, weights_boost=3.0)
    sample = Sample("one", "vg", (planted(),), "where is the dog?", BOX)
    pruner = load_pruner(method, Budget(average=8) if family == "llava" else Budget(ratio=0.5))
    seen, decide = [], pruner.prune_vision

    def spy(context, keep):
        seen.append((context, decide(context, keep)))
        return seen[-1][1]

    pruner.prune_vision = spy
    with prune(loaded.model, pruner) as session:
        (trace,) = trace_decisions(session, loaded, sample)
    for view, (context, decision) in zip(trace.views, seen, strict=True):
        assert view.weights and sorted([*view.pillars, *view.collectors]) == sorted(decision.keep[0].tolist())
        for patch, weights in view.weights.items():
            made = decision.features[0, decision.keep[0].tolist().index(patch)].float()
            assert torch.allclose(weights @ context.features[0].float(), made, atol=1e-4)


def test_roles_have_colours_of_their_own():
    panel = Panel(Image.new("RGB", (80, 80), "green"), (0, 0, 1, 1), (4, 4), "kept")
    panel.keep([0, 5, 10], pillars=[5], collectors=[10])
    corners = [panel.image.getpixel(panel.box_of(patch)[:2]) for patch in (0, 5, 10)]
    assert corners == [colour(KEPT), colour(PILLAR), colour(COLLECTOR)]
    x0, y0, x1, y1 = panel.box_of(10)
    assert panel.image.getpixel(((x0 + x1) // 2, (y0 + y1) // 2)) == colour(COLLECTOR)
    panel.regions(2)
    border, inside = (panel.image.getpixel(place) for place in ((2 * panel.patch, 0), (panel.patch, 10)))
    assert border == colour(INK) != inside
    assert panel.finished().size == (panel.size[0], panel.size[1] + LINE_HEIGHT + 8)


def test_places_of_one_axis_by_hand():
    """Four patches, then two rows of three with newlines: tokens 4 5 6 N 8 9 10 N."""
    views = (
        VisionView((2, 2), torch.arange(4)),
        VisionView((2, 3), torch.tensor([4, 5, 6, 8, 9, 10])),
    )
    group = torch.tensor([-1, -1, -1, -1, 0, 0, 0, 0, 1, 1, 1, 1])
    layout = ImageLayout(12, torch.tensor([0, 1, 2, 3, 4, 5, 6, -1, 7, 8, 9, -1]), views, group=group)
    places = token_locations(layout)
    assert places[3] == (0, 1, 1) and places[6:9] == [(1, 0, 2), (1, 0, 3), (1, 1, 0)]
    moved = id_locations(torch.tensor([[20, 27, 31, 32, 19]]), torch.tensor([20]), layout)
    assert moved == [(0, 0, 0), (1, 0, 3), (1, 1, 3), None, None]


def test_places_of_three_axes_by_hand():
    layout = ImageLayout.single((2, 3))
    ids = torch.tensor([[9, 9, 9, 12], [9, 10, 10, 12], [9, 11, 12, 12]])
    assert id_locations(ids, torch.tensor([9, 9, 9]), layout) == [(0, 0, 0), (0, 1, 2), None, None]


@pytest.mark.parametrize("family", FAMILIES)
def test_original_ids_stay_in_place_and_others_move(family):
    trace, _, _ = traces(family, "random")
    assert all(here == there for here, there in id_moves(trace, "pesp"))
    compact = [there for _, there in id_moves(trace, "perc")]
    if family == "qwen2_5_vl":  # a shared rank on both axes: down the diagonal and out of the grid
        rows, columns = trace.layout.views[0].grid
        assert compact == [(0, k, k) if k < min(rows, columns) else None for k in range(len(compact))]
        return
    places, stretched = token_locations(trace.layout), id_moves(trace, "rpme")
    assert compact == places[: len(compact)]
    assert (stretched[0][1], stretched[-1][1]) == (places[0], places[-1])
    assert any(here != there for here, there in stretched)


def test_the_ids_in_use_are_drawn():
    """Medians of merged tokens move them; others stay where they are."""
    trace, report, _ = traces("llava", "visionzip", "median")
    assert list(trace.stages[0].ids) == ["perc", "pesp", "rpme", "median"]
    assert trace.stages[0].ids["median"][0].tolist() == report.stages[0][2]
    moves = id_moves(trace, "median")
    assert 1 <= sum(here != there for here, there in moves) < len(moves) / 2


def test_coordinates_have_a_cross():
    loaded, sample = toy("llava", weights_boost=3.0), Sample("one", "vg", (planted(),), "where is the dog?", BOX)
    with prune(loaded.model, load_pruner("nuwa", 8), coordinates=Coordinates("grid", 0.4)) as session:
        (trace,) = trace_decisions(session, loaded, sample)
    entering = trace.stages[0]
    assert len(entering.coordinates) == round(0.4 * len(entering.kept)) and 0 in entering.coordinates
    assert set(entering.coordinates) <= set(entering.kept)
    panel = stage_panel(trace, 0, 0, {})
    for patch in entering.kept:
        x0, y0, x1, y1 = panel.box_of(patch)
        at = x0 + (x1 - x0) // 4, y0 + (y1 - y0) // 4
        assert (panel.image.getpixel(at) == colour(COORDINATE)) == (patch in entering.coordinates)


def test_a_collector_near_the_object_is_shown():
    trace, _, _ = traces("llava")
    view = trace.views[0]
    chosen = choose_collector(view, {"true": BOX})
    rows, columns = view.view.grid
    x, y = (BOX[0] + BOX[2]) / 2 * columns, (33 + (BOX[1] + BOX[3]) / 2 * 84) / 150 * rows

    def distance(patch):
        return (patch // columns - int(y)) ** 2 + (patch % columns - int(x)) ** 2

    assert distance(chosen) == min(map(distance, view.collectors))
    assert choose_collector(traces("llava", "random")[0].views[0], {"true": BOX}) is None


def test_a_box_outside_the_picture_is_said_not_drawn():
    trace, _, _ = traces("llava", "random")
    assert "true box (1.2" in stage_panel(trace, 0, 0, {"true": (1.2, 0.1, 1.4, 0.3)}).caption


def test_moved_ids_are_dots():
    panel = Panel(Image.new("RGB", (80, 80), "white"), (0, 0, 1, 1), (4, 4), "")
    panel.ids([((0, 0), (0, 0)), ((1, 1), (2, 3))])
    points = [panel.image.getpixel(tuple(map(int, panel.center_of(*place)))) for place in ((0, 0), (2, 3))]
    assert points == [colour(KEPT), colour(MOVED)]


def test_two_runs_side_by_side_and_the_callback(tmp_path, capsys):
    runs = [
        run_job(small(tmp_path, "name=a", f"pruner={p}", "baseline=skip", "callbacks.pictures=1", "dataset.samples=2"))
        for p in ("nuwa", "random")
    ]
    (drawn,) = (runs[0] / "pictures").glob("*.png")
    assert main([str(runs[0]), "--samples", "1", "--out", str(tmp_path)]) == 0
    single = Image.open(capsys.readouterr().out.strip())
    assert np.array_equal(np.asarray(single), np.asarray(Image.open(drawn)))
    assert main([*map(str, runs), "--samples", "2"]) == 0
    paths = capsys.readouterr().out.split()
    assert len(paths) == 2 and Image.open(paths[0]).height > 1.9 * single.height - 30
    journal = runs[1] / "predictions.jsonl"
    journal.write_text(journal.read_text().replace('"status": "ok"', '"status": "failed"', 1))
    assert main([str(runs[1]), "--samples", "2"]) == 0 and len(capsys.readouterr().out.split()) == 1
    assert main([str(tmp_path)]) == 1 and "no finished run" in capsys.readouterr().err


@pytest.mark.parametrize("ids", [False, True])
def test_every_panel_is_on_the_sheet(ids):
    trace, _, _ = traces("llava_next")
    sheet = draw_trace(trace, {"true": BOX}, [[Phrase("title")]], ids)
    panels = [stage_panel(trace, number, 0, {}) for number in range(2)]
    across = 1 + len(trace.stages) + (3 if ids else 0)
    assert sheet.height >= sum(panel.size[1] + LINE_HEIGHT for panel in panels)
    assert sheet.width == max(across * panel.size[0] + GAP * (across - 1) for panel in panels)


def test_the_original_stands_beside_what_is_kept():
    trace, _, _ = traces("llava", "random")
    panel = original_panel(trace, 0, {})
    assert np.array_equal(np.asarray(panel.image), np.asarray(panel.clear))
    faded = np.asarray(stage_panel(trace, 0, 0, {}).image).astype(int)
    green = (np.asarray(panel.clear).astype(int)[..., 1] > 200) & (np.asarray(panel.clear)[..., 0] < 30)
    kept = kept_patches(trace, 0, trace.stages[0].kept)
    rows, columns = np.nonzero(green)
    dropped = [(r, c) for r, c in zip(rows, columns, strict=True) if patch_at(panel, r, c) not in kept]
    assert dropped and all(faded[r, c, 1] > faded[r, c, 0] + 10 for r, c in dropped)  # pale, but still green


def patch_at(panel, row, column):
    return row // panel.patch * panel.grid[1] + column // panel.patch


@pytest.mark.parametrize(("score", "symbol"), [(1.0, tick), (0.0, cross), (0.4, None)])
def test_an_answer_is_marked_by_its_first_score(score, symbol):
    row = {"prediction": "no", "target": ["yes", "yes", "yeah"], "scores": {"vqa/exact_match": score, "other": 1.0}}
    _, question, answer = title_lines("nuwa, PESP", "is it?", row, is_box=False)
    assert question[0].text == "is it?" and answer[1].symbol is symbol
    said = [phrase.text for phrase in answer]
    assert said[-1] == "yes / yeah" and ("score 0.40" in said) == (symbol is None)
    assert len(title_lines("nuwa", "where?", row | {"target": [0, 0, 1, 1]}, is_box=True)[2]) == len(answer) - 2


def test_the_legend_names_what_is_shown_and_no_more():
    plain = [phrase.text for phrase in legend(traces("llava", "random")[0].views, set(), ids=False)]
    assert plain == ["kept"]
    full = [phrase.text for phrase in legend(traces("llava")[0].views, {"true", "predicted"}, ids=True)]
    assert {"true box", "predicted box", "id moved"} < set(full) and len(full) == 8


def test_long_titles_are_wrapped_to_the_sheet():
    words = "a very long question about many things " * 20
    lines = list(wrapped([Phrase("nuwa"), Phrase(words), Phrase("w" * 300)], 400))
    assert all(sum(width_of(phrase.text.rstrip()) for phrase in line) <= 400 for line in lines)
    said = "".join(phrase.text for line in lines for phrase in line)
    assert said.replace(" ", "") == f"nuwa{words}{'w' * 300}".replace(" ", "")
    assert text_block([[Phrase(words)]], 400).width == 400


@pytest.mark.parametrize(("tasks", "boxes"), [("[vqa,vg]", 2), ("[vg]", 4), ("[vqa]", 0)])
def test_half_of_the_pictures_are_boxes_where_there_are_both(tmp_path, tasks, boxes):
    options = ("baseline=skip", "callbacks.pictures=4", "dataset.samples=12", f"dataset.tasks={tasks}")
    folder = run_job(small(tmp_path, "pruner=random", *options))
    drawn = [file.name for file in (folder / "pictures").glob("*.png")]
    assert len(drawn) == 4 and sum("-vg" in name for name in drawn) == boxes


def test_letters_that_are_not_english_are_drawn():
    """A font without a letter draws the same box for each of them."""
    umlaut, other, missing = (
        np.asarray(text_block([[Phrase(letter)]], 60)) for letter in ("\u00fc", "\u0416", "\uffff")
    )
    assert not np.array_equal(umlaut, other) and not np.array_equal(umlaut, missing)
