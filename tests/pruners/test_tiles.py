"""LLaVA-NeXT crop by crop: the same as LLaVA-1.5 on every crop, put together as the authors do."""

import pytest
import torch
from helpers.families import FAMILIES
from helpers.families_tiles import of_real_size, source_of
from helpers.support import boosted, small_text, small_tower
from transformers import LlavaConfig, LlavaForConditionalGeneration

import nuwa
from nuwa.models import adapter_for
from nuwa.pruners.divprune import DivPrune, max_min
from nuwa.pruners.visionzip import VisionZip
from nuwa.pruning.budget import Budget
from nuwa.pruning.tiling import CropByCrop, even_shares

NEXT = FAMILIES["llava_next"]
SIDE, SQUARE = 4, 2
"""Patches of a crop's side, and the number of the picture whose 2x2 tiles have no padding."""
PEERS = ["visionzip", "vispruner", "hiprune", "holov", "prumerge", "prumerge_plus"]


@pytest.mark.parametrize("size", [(480, 640), (330, 1000), (1000, 330), (672, 672), (20, 10000), (1, 1)], ids=str)
def test_crops_against_brute_force(size):
    (layout,) = of_real_size().layouts([], {"image_sizes": torch.tensor([size])})
    seen = {}
    for token, row in enumerate(source_of(size)):
        if row >= 0:
            seen.setdefault(row // 576, []).append((row % 576 // 24, row % 24, token))
    pieces = CropByCrop(torch.cat).views_to_prune(layout)
    assert len(pieces) == len(seen)
    for piece, crop in zip(pieces, sorted(seen), strict=True):
        rows, columns, tokens = zip(*sorted(seen[crop]), strict=True)
        assert piece.grid == (len(set(rows)), len(set(columns)))
        assert piece.tokens.tolist() == list(tokens)


def test_even_shares():
    assert even_shares(640, [576] * 5) == [128] * 5
    assert even_shares(7, [576] * 5) == [2, 2, 1, 1, 1]
    assert even_shares(100, [576, 10, 4]) == [86, 10, 4]
    assert even_shares(21, [4, 16, 16]) == [4, 9, 8]
    assert even_shares(36, [4, 16, 16]) == [4, 16, 16]


@pytest.mark.parametrize(("average", "merged"), [(640, 20), (320, 10), (160, 5)])
def test_visionzip_counts_of_a_crop(average, merged):
    pruner = nuwa.load_pruner("visionzip", budget=average)
    count = even_shares(pruner.schedule(2880, 32).vision, [576] * 5)[0]
    assert (count - pruner._merged(count), pruner._merged(count)) == (average // 5 - merged, merged)


def one_crop_model():
    """LLaVA-1.5 with the tower, the projector and the LLM of the small LLaVA-NeXT."""
    config = LlavaConfig(
        vision_config=small_tower(image_size=4 * SIDE, projection_dim=16),
        text_config=small_text(),
        image_token_id=NEXT.model().config.image_token_id,
        vision_feature_layer=-2,
        image_seq_length=SIDE * SIDE,
    )
    model = boosted(LlavaForConditionalGeneration(config), 1.0)
    weights = NEXT.model().state_dict()
    model.load_state_dict({name: weights[name] for name in model.state_dict()})
    return model.eval()


@torch.no_grad()
def kept_and_states(model, inputs, pruner):
    """What of each image enters the LLM: its tokens in order, and the vectors of all images' tokens (K, D)."""
    seen = []
    handle = model.model.language_model.layers[0].register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(args[0]), with_kwargs=True
    )
    with nuwa.prune(model, pruner) as session:
        model(**inputs)
    handle.remove()
    images = session.report().images
    start = inputs["input_ids"][0].tolist().index(model.config.image_token_id)
    states = [row[start:][: len(image.stages[0][1])] for row, image in zip(seen[0], images, strict=True)]
    return [image.stages[0][1] for image in images], states


def in_the_image(crop, cell):
    """The token of a cell of a crop of the square picture, newlines counted."""
    if crop == 0:
        return cell
    row, column = (crop - 1) // 2 * SIDE + cell // SIDE, (crop - 1) % 2 * SIDE + cell % SIDE
    return SIDE * SIDE + row * (2 * SIDE + 1) + column


def put_together(name, crops):
    """Indices (crop, place) in the order in which the LLM sees them, by what is known of the authors' code."""
    places = [[(crop, place) for place in range(len(tokens))] for crop, tokens in enumerate(crops)]
    first, tiles = places[0], places[1:]
    every = [entry for tile in tiles for entry in tile]

    def raster(entries):
        return sorted(entries, key=lambda entry: in_the_image(entry[0], crops[entry[0]][entry[1]]))

    if name == "visionzip":  # CLS, five dominant ones, one merged one
        return first + raster([e for e in every if 0 < e[1] < 6]) + [t[0] for t in tiles] + [t[6] for t in tiles]
    return first + (every if name in ("holov", "prumerge", "prumerge_plus") else raster(every))


@pytest.mark.parametrize("name", PEERS)
def test_every_crop_is_pruned_like_an_image_of_its_own(name):
    whole, alone = NEXT.model(), one_crop_model()
    image, picture = [whole.config.image_token_id], NEXT.pictures(SQUARE)
    tiled = {"input_ids": torch.tensor([[1, 9, *image * len(NEXT.cells(SQUARE)), 10]]), **picture}
    (kept,), (states,) = kept_and_states(whole, tiled, nuwa.load_pruner(name, budget=35))
    plain = {"input_ids": torch.tensor([[1, 9, *image * SIDE**2, 10]] * 5), "pixel_values": picture["pixel_values"][0]}
    crops, vectors = kept_and_states(alone, plain, nuwa.load_pruner(name, budget=7))
    order = put_together(name, crops)
    assert kept == [in_the_image(crop, crops[crop][place]) for crop, place in order]
    torch.testing.assert_close(states, torch.stack([vectors[crop][place] for crop, place in order]))


@pytest.mark.parametrize("name", ["visionzip", "vispruner"])
def test_padding_takes_no_part_and_the_budget_is_met(name):
    model, inputs = NEXT.model(), NEXT.inputs("first", "two", "last")
    with torch.no_grad(), nuwa.prune(model, nuwa.load_pruner(name, budget=Budget(ratio=0.34))) as session:
        model(**inputs)
    for number, image in zip((0, 1, 2, 3), session.report().images, strict=True):
        patches = {token for view in NEXT.patches(number) for token in view}
        assert set(image.stages[0][1]) <= patches
        assert len(image.stages[0][1]) == round(0.34 * len(patches))


@pytest.mark.parametrize("name", ["visionzip", "prumerge", "divprune"])
def test_composed_shows_tiles_as_its_part_does(name):
    model, inputs = NEXT.model(), NEXT.inputs("first")
    kept = []
    for pruner in (nuwa.load_pruner(name, budget=12), nuwa.load_pruner("composed", budget=12, vision=name, split=1.0)):
        with torch.no_grad(), nuwa.prune(model, pruner) as session:
            model(**inputs)
        kept.append(session.report().images[0].stages[0][1])
    assert kept[0] == kept[1]


def test_stitched_tiles_keep_newlines():
    model, inputs = NEXT.model(), NEXT.inputs("first")
    with torch.no_grad(), nuwa.prune(model, nuwa.load_pruner("vispruner", budget=12, tiles="stitched")) as session:
        model(**inputs)
    newlines = {i for i, (_, _, column) in enumerate(NEXT.cells(0)) if column is None}
    assert newlines & set(session.report().images[0].stages[0][1])


def test_divprune_chooses_among_all_tokens_at_once():
    model, inputs = NEXT.model(), NEXT.inputs("first")
    with torch.no_grad():
        features = model.model.get_image_features(**NEXT.pictures(0)).pooler_output[0]
        with nuwa.prune(model, nuwa.load_pruner("divprune", budget=12)) as session:
            model(**inputs)
    patches = torch.tensor([token for view in NEXT.patches(0) for token in view])
    expected = patches[max_min(features[patches], 12)].sort().values
    assert session.report().images[0].stages[0][1] == expected.tolist()


def test_interpolated_tiles_stay_stitched():
    family = FAMILIES["llava_onevision"]
    arguments = family.pictures(0)
    adapter = adapter_for(family.model())
    features = [torch.zeros(len(family.cells(0)), 1)]
    (layout,) = adapter.layouts(features, arguments)
    assert CropByCrop(torch.cat).views_to_prune(layout) == layout.views


@pytest.mark.parametrize(("make", "key"), [(VisionZip, "each or stitched"), (DivPrune, "joint or stitched")])
def test_other_words_are_refused(make, key):
    with pytest.raises(ValueError, match=f"pruner.tiles must be {key}, not 'one'"):
        make(tiles="one")
