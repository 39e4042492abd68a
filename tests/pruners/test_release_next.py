"""The released Nüwa on LLaVA-NeXT: golden data, budgets, and its mistakes, each against an account of its own."""

import re
from dataclasses import replace

import pytest
import torch
from helpers.families import FAMILIES
from helpers.families_tiles import PINPOINTS, best_tiles, source_of, unpadded
from helpers.golden_cases import Golden, vision_context
from helpers.jobs import CONF, compose

import nuwa
from nuwa.config import build, typed
from nuwa.models.llava_next import tiled_layout
from nuwa.pruners import composed, release_next
from nuwa.pruners.fastv import FastV
from nuwa.pruners.nuwa import Nuwa
from nuwa.pruners.nuwa_release import NuwaRelease
from nuwa.pruners.release_next import ReleasedTiling
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
    shares = pruner.tiling.split_budget(schedule.vision, layout.views)
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


@pytest.mark.parametrize("run", [run for run in Golden(GOLDEN).runs if run.endswith("newlines")])
def test_newlines_of_every_row(run):
    case = Golden(GOLDEN)
    (_, tiles), layout = released(case, run.removesuffix("_newlines"))
    ids = layout.views[1].closed(tiles.keep[0], every_row=True)
    tokens = torch.full((layout.n_tokens, 8), 7.0)
    tokens[layout.views[1].tokens[tiles.keep[0]]] = tiles.features[0]
    offset = torch.tensor(layout.n_tokens)
    case.check(run, local_ids=ids, local_tokens=tokens[ids][None], position_offset=offset)


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


def swapped_by_hand(size):
    """Rows of the vision features as the release stitches and cuts them: one tile after the other, cell by cell."""
    wide, high = best_tiles(size, PINPOINTS, 336)
    canvas = [[None] * (24 * wide) for _ in range(24 * high)]
    for tile in range(wide * high):
        for cell in range(576):
            canvas[tile // wide * 24 + cell // 24][tile % wide * 24 + cell % 24] = (1 + tile) * 576 + cell
    height, width = len(canvas), len(canvas[0])
    if size[1] / size[0] > width / height:
        cut = (height - int(size[0] * width / size[1])) // 2
        return canvas[cut : height - cut]
    cut = (width - int(size[1] * height / size[0])) // 2
    return [row[cut : width - cut] for row in canvas]


@pytest.mark.parametrize("size", [(330, 1000), (1000, 330), (336, 672), (300, 720), (640, 300), (640, 480)], ids=str)
def test_swapped_tiles(size):
    layout, source = layout_of(size), source_of(size)
    (_, view) = NuwaRelease(swapped_tiles=True).tiling.prepare_layout(layout).views
    expected = swapped_by_hand(size)
    assert view.grid == (len(expected), len(expected[0]))
    assert view.rows.view(view.grid).tolist() == expected
    flat = [row for line in expected for row in line]
    assert view.tokens.tolist() == [source.index(row) if row in source else -1 for row in flat]
    if size == (640, 480):
        assert torch.equal(view.tokens, layout.views[1].tokens)
    else:
        assert view.grid != layout.views[1].grid
    newlines = view.newlines[view.newlines >= 0]
    assert len(newlines.unique()) == len(newlines)
    assert (layout.source[newlines] == -1).all()


@pytest.mark.filterwarnings("ignore:llava_onevision interpolates")
@pytest.mark.parametrize("prompt", ["middle", "two", "last"])
def test_tokens_of_no_one_tile_stay_where_they_are(prompt):
    family, logits = FAMILIES["llava_onevision"], []
    for swapped in (False, True):
        pruner = nuwa.load_pruner("nuwa_release", budget=Budget(ratio=0.3), swapped_tiles=swapped)
        with torch.no_grad(), nuwa.prune(family.model(), pruner):
            logits.append(family.model()(**family.inputs(prompt)).logits)
    assert torch.equal(*logits)


@pytest.mark.parametrize(("average", "tokens"), [(160, 264), (640, 482)])
def test_swapped_tiles_keep_too_few_tokens(average, tokens):
    """The release's own numbers for a 1000x330 image."""
    pruner = NuwaRelease(budget=Budget(average=average), swapped_tiles=True)
    views = pruner.tiling.prepare_layout(layout_of((330, 1000))).views
    assert views[1].grid == (8, 24)
    assert sum(pruner.tiling.split_budget(pruner.schedule(2304, 32).vision, views)) == tokens


@pytest.mark.parametrize("total", [1, 3, 4, 5, 6])
def test_an_image_with_fewer_tokens_than_tiles_keeps_some(total):
    """None for each, if every tile got the same."""
    shares = NuwaRelease().tiling.split_budget(total, layout_of((1000, 1000)).views)
    assert sum(shares) == min(total, 5)


def run(prompt, average=None, **options):
    """What a run saw: the ids that rotary embeddings were made of, the report, and the answer's logits."""
    model, seen = FAMILY.model(), []
    pruner = nuwa.load_pruner("nuwa_release", budget=Budget(ratio=0.3) if average is None else average, **options)

    def see(module, args, kwargs):
        seen.append((kwargs["position_ids"] if "position_ids" in kwargs else args[1])[0].tolist())

    handle = model.model.language_model.rotary_emb.register_forward_pre_hook(see, with_kwargs=True)
    arguments = {"max_new_tokens": 3, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    try:
        with torch.no_grad(), nuwa.prune(model, pruner) as session:
            out = model.generate(**FAMILY.inputs(prompt), **arguments)
    finally:
        handle.remove()
    return seen, session.report().images, torch.cat(out.logits)


def test_all_newlines():
    """Of every row in layer 0; stage 2 takes those of empty rows."""
    _, plain, _ = run("two", average=5.5)
    _, images, _ = run("two", average=5.5, all_newlines=True)
    for number, before, image in zip((1, 2), plain, images, strict=True):
        newlines = {i for i, (_, _, column) in enumerate(FAMILY.cells(number)) if column is None}
        (_, kept, _), (_, later, _) = image.stages
        assert newlines <= set(kept)
        assert set(kept) - newlines == set(before.stages[0][1]) - newlines
        assert not newlines <= set(before.stages[0][1])
        assert later == FAMILY.with_newlines(number, set(later) - newlines)


@pytest.mark.parametrize("prompt", ["last", "two"])
def test_misaligned_ids(prompt):
    """Counted out slot by slot: patches' bare indices first, then text's ids from the unpruned image's end."""
    plain_ids, plain, plain_logits = run(prompt)
    ids, images, logits = run(prompt, misaligned_ids=True)
    numbers, whole = {"last": (3,), "two": (1, 2)}[prompt], FAMILY.ids(prompt)
    expected, place, shift = [], 0, 0
    for number, image in zip(numbers, plain, strict=True):
        start = whole.index(4, place)
        expected += [i + shift for i in range(place, start)]
        cells = FAMILY.cells(number)
        bare = {token: i for i, token in enumerate(t for t, cell in enumerate(cells) if cell[2] is not None)}
        slots = image.stages[0][1]
        indices = [bare[token] for token in slots if token in bare]
        closing = len(slots) - len(indices)
        assert closing
        expected += [start + shift + i for i in indices]
        expected += [start + shift + len(cells) + i for i in range(closing)]
        shift, place = shift + closing, start + len(cells)
    expected += [i + shift for i in range(place, len(whole))]
    assert ids[0] == expected != plain_ids[0]
    # the first new token follows; rotary embeddings of stage 2 are asked for in between
    assert [[len(whole) + shift], [len(whole) + shift + 1]] == [x for x in ids if len(x) == 1][::2]
    for image, before, number in zip(images, plain, numbers, strict=True):
        patches = [token for token in before.stages[0][1] if FAMILY.cells(number)[token][2] is not None]
        assert image.stages[0][1] == before.stages[0][1][: len(patches)]
        assert len(image.stages[1][1]) == max(1, int(0.1 * len(patches))) or len(patches) in (112, 224, 336)
    assert not torch.allclose(logits, plain_logits, atol=1e-4)


def test_misaligned_ids_are_stretched_over_a_misaligned_span():
    """The second image's span begins later by the newlines of the first that stay."""
    _, (first, _), _ = run("two")
    shift = len(first.stages[0][1]) - sum(FAMILY.cells(1)[token][2] is not None for token in first.stages[0][1])
    pruner = nuwa.load_pruner("nuwa_release", budget=Budget(ratio=0.3), misaligned_ids=True)
    with torch.no_grad(), nuwa.prune(FAMILY.model(), pruner, "rpme") as session:
        FAMILY.model()(**FAMILY.inputs("two"))
    ids = session.report().images[1].stages[0][2]
    whole = FAMILY.ids("two")
    start = shift + whole.index(4, whole.index(4) + len(FAMILY.cells(1)))
    assert (ids[0], ids[-1]) == (start, start + len(FAMILY.cells(2)) - 1)


@pytest.mark.parametrize("options", [{"swapped_tiles": True}, {"misaligned_ids": True, "all_newlines": True}], ids=str)
def test_mistakes_in_a_batch_equal_mistakes_alone(options):
    model, rows = FAMILY.model(), ("middle", "two", "last")
    pruner = nuwa.load_pruner("nuwa_release", budget=Budget(ratio=0.3), **options)
    arguments = {"max_new_tokens": 4, "do_sample": False}
    with torch.no_grad(), nuwa.prune(model, pruner):
        together = model.generate(**FAMILY.inputs(*rows), **arguments)
        assert torch.equal(together, model.generate(**FAMILY.inputs(*rows), use_cache=False, **arguments))
        for row, name in enumerate(rows):
            assert torch.equal(model.generate(**FAMILY.inputs(name), **arguments)[0, -4:], together[row, -4:])


def test_a_budget_above_what_a_tenth_allows_leaves_small_images_whole():
    """Under dynamic resolution: 48 patches cost at most 26 on average."""
    _, (image,), _ = run("middle", average=40)
    cells = len(FAMILY.cells(0))
    assert len(image.stages[0][1]) == cells
    height, width = unpadded(FAMILY.sizes[0], FAMILY.pinpoints, 16, 4)
    patches = [t for t in image.stages[1][1] if FAMILY.cells(0)[t][2] is not None]
    assert len(patches) == int(0.1 * (16 + height * width))


def test_composed_asks_its_vision_part(monkeypatch):
    """Whatever a vision method makes of views, newlines and ids, it makes of them in company too."""
    mistakes = {"swapped_tiles": True, "misaligned_ids": True, "all_newlines": True}
    kinds = {"nuwa_release": (NuwaRelease, mistakes), "fastv": (FastV, {})}
    monkeypatch.setattr(composed, "find_method", kinds.get)
    pruner = composed.Composed("nuwa_release", "fastv", budget=Budget(average=64))
    layout = layout_of((480, 640))
    (_, ours), (_, theirs) = (
        part.tiling.prepare_layout(layout).views for part in (pruner, NuwaRelease(swapped_tiles=True))
    )
    assert ours.grid == theirs.grid and ours.tokens.equal(theirs.tokens)
    one = torch.tensor([0])
    assert pruner.tiling.close_rows(ours, one).equal(ours.closed(one, every_row=True))
    monkeypatch.setattr(release_next, "misalign", lambda *asked: ("misaligned", *asked))
    assert pruner.tiling.rewrite_prompt("prompt", "segment", "pesp") == ("misaligned", "prompt", "segment", "pesp")


@pytest.mark.parametrize("name", ["table11_next_grounding", "table12_next_vqa"])
def test_the_papers_tables_say_how_to_run_them_with_the_mistakes(name):
    head = (CONF / "experiment" / f"{name}.yaml").read_text(encoding="utf-8")
    (line,) = re.findall(r"^#   (pruner=nuwa_release .*)$", head, re.MULTILINE)
    cfg = compose(f"experiment={name}", "model=llava_next_random", "budget.average=160", *line.split())
    pruner = build(typed(cfg, "pruner"), budget=Budget(average=160))
    assert pruner.tiling == ReleasedTiling(swapped_tiles=True, misaligned_ids=True, all_newlines=True)


def test_a_swapped_row_of_padding_has_no_newline():
    """The release sees two tiles side by side as two on top of each other; of these it cuts out what holds no patch."""
    view = release_next.swap_tiles(layout_of((200, 640))).views[1]
    assert view.grid == (8, 24) and view.tokens.eq(-1).all() and view.newlines.tolist() == [-1] * 8
