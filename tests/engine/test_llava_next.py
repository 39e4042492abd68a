"""LLaVA-NeXT: where tiles and newlines sit, what is read off stitched views, and what budgets mean."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.families import FAMILIES
from helpers.families_tiles import PINPOINTS, best_tiles, of_real_size, random_llava_next, source_of, unpadded
from helpers.support import Fixed, small_text
from transformers import MistralConfig

import nuwa
from nuwa.models import adapter_for
from nuwa.pruners.base import LLMDecision, Pruner, Tap
from nuwa.pruning.budget import Budget
from nuwa.pruning.schedules import Schedule

FAMILY = FAMILIES["llava_next"]


def random_sizes() -> list[tuple[int, int]]:
    """(height, width) from 1 to 3000, evenly in the logarithm, and some that were chosen."""
    draw = torch.rand(20, 2, generator=torch.Generator().manual_seed(5))
    drawn = [tuple(pair) for pair in (3000**draw).round().long().tolist()]
    return [*drawn, (480, 640), (330, 1000), (1000, 330), (1, 1), (20, 10000), (10000, 20), (336, 336), (335, 337)]


@pytest.mark.parametrize("size", random_sizes(), ids=str)
def test_layout_against_brute_force(size):
    height, width = unpadded(size, PINPOINTS, 336, 24)
    (layout,) = of_real_size().layouts([], {"image_sizes": torch.tensor([size])})
    expected = source_of(size)
    assert layout.source.tolist() == expected
    assert layout.n_tokens == len(expected) == 576 + height * (width + 1)
    assert layout.patches == 576 + height * width
    base, *tiles = layout.views
    assert (base.grid, base.tokens.tolist()) == ((24, 24), list(range(576)))
    if not height:
        assert not tiles
        return
    (view,) = tiles
    assert (view.grid, view.tiles) == ((height, width), best_tiles(size, PINPOINTS, 336))
    places = [[576 + row * (width + 1) + column for column in range(width + 1)] for row in range(height)]
    assert view.tokens.view(height, width).tolist() == [row[:-1] for row in places]
    assert (layout.source < 0).nonzero()[:, 0].tolist() == [row[-1] for row in places]
    assert layout.group.tolist() == [-1] * 576 + [row for row in range(height) for _ in range(width + 1)]


def recorded(model, *taps, numbers=(0, 1, 2, 3)):
    """A recording of pictures, their layouts, and the crops that the tower saw, in one row."""
    adapter, arguments = adapter_for(model), FAMILY.pictures(*numbers)
    with torch.no_grad(), adapter.record(taps, arguments) as recording:
        images = model.model.get_image_features(**arguments).pooler_output
    return recording, adapter.layouts(images, arguments), torch.cat(adapter.pixels(arguments))


@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_taps_of_stitched_views_equal_eager_attention(number):
    kinds = ("cls_attention", "received_attention", "keys", "hidden_mean")
    taps = [Tap(kind, 0.5) if kind == "hidden_mean" else Tap(kind) for kind in kinds]
    recording, layouts, crops = recorded(FAMILY.model(), *taps)
    with torch.no_grad():
        tower = FAMILY.model("eager").model.vision_tower
        eager = tower(crops, output_attentions=True, output_hidden_states=True)
        attention, hidden = eager.attentions[-2], eager.hidden_states
        layer = tower.encoder.layers[-2]
        expected = {
            "cls_attention": attention[:, :, 0, 1:].transpose(1, 2),
            "received_attention": attention.mean((1, 2))[:, 1:],
            "keys": layer.self_attn.k_proj(layer.layer_norm1(hidden[-3]))[:, 1:],
            "hidden_mean": torch.stack(hidden[2:]).mean(0)[:, 1:],
        }
    first = sum(1 + h * w for h, w in (best_tiles(FAMILY.sizes[i], FAMILY.pinpoints, 16) for i in range(number)))
    source = source_of(FAMILY.sizes[number], 4, FAMILY.pinpoints, 16)
    for view, cells in zip(layouts[number].views, FAMILY.patches(number), strict=True):
        places = [divmod(source[cell], 16) for cell in cells]
        rows = layouts[number].source[view.tokens]
        for tap in taps:
            values = torch.stack([expected[tap.kind][first + crop, patch] for crop, patch in places])
            got = recording.view(tap, number, rows)
            # keys and states are sums of two kernels' outputs, scores are what they are compared for
            atol = 1e-6 if tap.kind.endswith("attention") else 1e-5
            torch.testing.assert_close(got.T if tap.kind == "cls_attention" else got, values, atol=atol, rtol=0)
            assert values.std() > 1e-4  # not flat: the comparison can fail
        values = torch.stack([hidden[-2][first + crop, 1 + patch] for crop, patch in places])
        torch.testing.assert_close(recording.features(number, rows), values, atol=1e-5, rtol=0)


def test_a_stitched_view_has_no_cls_token():
    taps = (Tap("cls_feature"), Tap("reader_query"), Tap("reader_keys"))
    recording, layouts, _ = recorded(FAMILY.model(), *taps, numbers=(0,))
    base, tiles = (layouts[0].source[view.tokens] for view in layouts[0].views)
    assert [recording.view(tap, 0, base).shape for tap in taps] == [(1, 32), (1, 32), (17, 32)]
    assert [recording.view(tap, 0, tiles) for tap in taps] == [None] * 3


def test_names_of_images_do_not_depend_on_the_batch():
    with torch.no_grad(), nuwa.prune(FAMILY.model(), Fixed(2)) as session:
        session.adapter.model(**FAMILY.inputs("middle", "two", "last"))
        together = [image.id for image in session.report().images]
        session.adapter.model(**FAMILY.inputs("two"))
        assert [image.id for image in session.report().images] == together[1:3]
    assert len(set(together)) == 4


def test_newlines_go_with_their_rows():
    """Base tokens and one row of tiles stay, then a single token of it."""
    pruner = Fixed(1, (2,))
    height, width = unpadded(FAMILY.sizes[2], FAMILY.pinpoints, 16, 4)

    def only_row(context, keep):
        row = (context.token - 16) // (width + 1) == 3
        assert int((context.valid & ~context.text & ~context.visual).sum()) == height
        return context.text | row & (context.image == 0)

    pruner.prune_llm = only_row
    inputs = FAMILY.inputs("first") | FAMILY.pictures(2)
    length = 16 + height * (width + 1)
    inputs["input_ids"] = torch.tensor([[1, *[4] * length, 9, 10]])
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    with torch.no_grad(), nuwa.prune(FAMILY.model(), pruner) as session:
        session.adapter.model(**inputs)
    start = 16 + 3 * (width + 1)
    (image,) = session.report().images
    assert [stage[1] for stage in image.stages] == [list(range(length)), list(range(start, start + width + 1))]
    assert image.per_layer == [length] * 2 + [width + 1] * 4


def test_reordered_tokens_have_no_newlines():
    with (
        torch.no_grad(),
        nuwa.prune(FAMILY.model(), nuwa.load_pruner("visionzip", budget=Budget(ratio=0.5))) as session,
    ):
        session.adapter.model(**FAMILY.inputs("last"))
    (_, kept, _) = session.report().images[0].stages[0]
    newlines = [i for i, (_, _, column) in enumerate(FAMILY.cells(3)) if column is None]
    assert len(kept) == 32  # of 64 patches
    assert not set(kept) & set(newlines)


def test_an_absolute_budget_keeps_smaller_images_whole():
    """48 and 80 patches with a budget of 60."""
    model, pruner = FAMILY.model(), nuwa.load_pruner("nuwa", budget=60)
    with torch.no_grad():
        expected = model(**FAMILY.inputs("middle")).logits
        with nuwa.prune(model, pruner) as session:
            assert torch.equal(model(**FAMILY.inputs("middle")).logits, expected)
            model(**FAMILY.inputs("two"))
            small, large = session.report().images
    assert small.per_layer == [len(FAMILY.cells(1))] * 6
    patches = {token for view in FAMILY.patches(2) for token in view}
    counts = [len(patches & set(kept)) for _, kept, _ in large.stages]
    assert sum(counts) / 2 == 60  # stage 2 is in the middle
    share = sum(token < 16 for token in large.stages[0][1])
    assert share == round(counts[0] * 16 / 80)


def test_mistral_text():
    text = small_text(MistralConfig, sliding_window=None)
    model, options = random_llava_next(text=text), {"max_new_tokens": 4, "do_sample": False}
    with torch.no_grad():
        expected = model.generate(**FAMILY.inputs("middle", "two"), **options)
        with nuwa.prune(model, nuwa.load_pruner("none")):
            assert torch.equal(model.generate(**FAMILY.inputs("middle", "two"), **options), expected)
        with nuwa.prune(model, nuwa.load_pruner("nuwa", budget=Budget(ratio=0.3))):
            together = model.generate(**FAMILY.inputs("middle", "two"), **options)
            for row, name in enumerate(("middle", "two")):
                assert torch.equal(model.generate(**FAMILY.inputs(name), **options)[0, -4:], together[row, -4:])
    assert not torch.equal(together, expected)


def test_extras_say_what_holds_of_every_cell_of_a_view():
    with torch.no_grad(), nuwa.prune(FAMILY.model(), nuwa.load_pruner("nuwa", budget=Budget(ratio=0.3))) as session:
        session.adapter.model(**FAMILY.inputs("last"))
    (image,) = session.report().images
    kept = set(image.stages[0][1])
    for suffix, cells in zip(("", "/1"), FAMILY.patches(3), strict=True):
        assert image.extras[f"salience{suffix}"].shape == (len(cells),)
        pillars = {cells[i] for i in image.extras[f"pillar{suffix}"].nonzero()[:, 0].tolist()}
        stay = kept & set(cells)
        assert pillars <= stay
        assert len(pillars) == len(stay) - math.ceil(0.75 * (len(stay) - 1))


class Turning(Pruner):
    """Keeps every second patch of each image at layer 2, moved up, the last first if ``turned``; all of them at 4."""

    name = "turning"

    def __init__(self, turned):
        super().__init__()
        self.turned = turned

    def schedule(self, n_tokens, layers):
        return Schedule(n_tokens, ((2, (n_tokens + 1) // 2), (4, (n_tokens + 1) // 2)))

    def prune_llm(self, context, keep):
        kept = torch.zeros_like(context.valid)
        order = torch.arange(kept.shape[1]).repeat(len(kept), 1)
        for row, _, mine in context.each_image():
            stay = mine[::2] if context.layer == 2 else mine
            kept[row, stay] = True
            order[row, stay.flip(0) if self.turned else stay] = mine[: len(stay)]
        return LLMDecision(kept, order=order) if context.layer == 2 else kept


@pytest.mark.parametrize("turned", [False, True])
def test_newlines_follow_the_last_of_their_row_or_leave_with_the_order_of_rows(turned):
    """Also of images whose rows in the batch are padded, with places that were newlines."""
    names, numbers = ("middle", "two", "last"), (0, 1, 2, 3)
    with torch.no_grad(), nuwa.prune(FAMILY.model(), Turning(turned)) as session:
        together = session.adapter.model(**FAMILY.inputs(*names)).logits
        images = session.report().images
        for row, name in enumerate(names):
            alone = session.adapter.model(**FAMILY.inputs(name)).logits[0]
            torch.testing.assert_close(together[row, -len(alone) :], alone, atol=3e-6, rtol=0)
    for image, number in zip(images, numbers, strict=True):
        patches = sorted(token for view in FAMILY.patches(number) for token in view)[::2]
        expected = patches[::-1] if turned else FAMILY.with_newlines(number, set(patches))
        assert [kept for _, kept, _ in image.stages[1:]] == [expected] * 2
