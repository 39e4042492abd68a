"""Pictures of tiles that their whole follows: which tiles are one, where its tokens are, and what is read of them."""

import numpy as np
import pytest
import torch
from helpers.families import FAMILIES
from helpers.families_toy import toy
from PIL import Image

import nuwa
from nuwa.models import adapter_for
from nuwa.models.tiles import check_sizes, picture_grids, tile_count
from nuwa.pruners import KeepAll
from nuwa.pruners.base import Tap
from nuwa.pruning.budget import Budget
from nuwa.samples import Sample

SIZES = [
    (448, 448), (449, 447), (640, 480), (480, 640), (1344, 448), (448, 1400), (200, 40), (40, 200), (31, 57),
    (1000, 999), (3000, 250), (120, 1440), (800, 600), (600, 840), (1920, 1080), (333, 777), (777, 333), (90, 1080),
    (512, 64), (45, 44),
]  # fmt: skip
"""Twenty (width, height): one tile, all sorts of shapes, and beyond 12 to 1."""
SHUFFLED = ("internvl", "smolvlm", "idefics3")


def photo(width, height, seed=0):
    """A picture with structure of every size."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (3, 4, 3), dtype=np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    fine = rng.integers(-40, 41, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(coarse) + fine, 0, 255).astype(np.uint8))


def gradient(width, height):
    """Red is the place from left to right, green from top to bottom."""
    across, down = np.meshgrid(*(255 * (np.arange(side) + 0.5) / side for side in (width, height)))
    return Image.fromarray(np.stack([across, down, 0 * down], -1).astype(np.uint8))


def nearest_shape(width, height, side, most=12):
    """(rows, columns) of InternVL's tiles, by its authors' rule, tried one by one in the order of their number.

    The nearest in shape; of equally near ones the last that does not need more than twice the picture's pixels.
    """
    best, gap = (1, 1), float("inf")
    for count in range(1, most + 1):
        for columns in range(1, most + 1):
            for rows in range(1, most + 1):
                if rows * columns == count:
                    away = abs(width / height - columns / rows)
                    if away < gap or (away == gap and width * height > 0.5 * side * side * count):
                        best, gap = (rows, columns), away
    return best


@pytest.mark.parametrize("size", SIZES)
def test_internvls_tiles_by_brute_force(size):
    """How many there are, that the pixels tell it, and that every token sees its part of the picture."""
    loaded = toy("internvl", image_size=112)
    family = adapter_for(loaded.model)
    inputs = loaded.pictures.encode([gradient(*size)])
    rows, columns = nearest_shape(*size, 112)
    assert inputs["num_patches"].tolist() == [len(inputs["pixel_values"])] == [tile_count((rows, columns))]
    assert family.grids(inputs) == [(rows, columns)]
    (layout,) = family.layouts([], inputs)
    assert [view.grid for view in layout.views] == [(4 * rows, 4 * columns), (4, 4)][: 1 + (rows * columns > 1)]
    mean, std = (
        torch.tensor(values)[:, None, None]
        for values in (loaded.pictures.pil.image_mean, loaded.pictures.pil.image_std)
    )
    for view in layout.views:
        for cell, token in enumerate(view.tokens.tolist()):
            tile, (top, left) = token // 16, divmod(token % 16, 4)
            seen = inputs["pixel_values"][tile, :, 28 * top : 28 * (top + 1), 28 * left : 28 * (left + 1)] * std + mean
            row, column = divmod(cell, view.grid[1])
            place = (column + 0.5) / view.grid[1], (row + 0.5) / view.grid[0]
            assert seen.mean((1, 2))[:2].tolist() == pytest.approx(place, abs=0.03)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_pictures_of_a_batch_are_told_apart(dtype):
    loaded = toy("internvl", image_size=112)
    images = [photo(*size, seed) for seed, size in enumerate(SIZES)]
    pixels = loaded.pictures.encode(images)["pixel_values"].to(dtype)
    assert picture_grids(pixels, 14) == [nearest_shape(*size, 112) for size in SIZES]


def test_pictures_of_one_tile_that_look_alike_stay_apart():
    """Frames of a film that hardly moves: none is what the two before it look like from afar."""
    tiles = toy("internvl", image_size=112).pictures.encode([photo(112, 112)])["pixel_values"]
    assert picture_grids(tiles.repeat(7, 1, 1, 1), 14) == [(1, 1)] * 7


def test_pictures_of_one_colour_are_right_alone_and_refused_together():
    loaded = toy("internvl")
    white = Image.new("RGB", (56, 56), "white")
    for image in (white, Image.new("RGB", (56, 112), "white")):
        with nuwa.prune(loaded.model, KeepAll()) as session:
            loaded.model.generate(**loaded.encode([Sample("a", "vqa", (image,), "what?", None)]), max_new_tokens=1)
        assert session.report().images_seen == 1
    batch = loaded.encode([Sample(str(n), "vqa", (white,), "what?", None) for n in range(3)])
    with nuwa.prune(loaded.model, KeepAll()), pytest.raises(ValueError, match=r"one colour.*calls of their own"):
        loaded.model.generate(**batch, max_new_tokens=1)


def test_prompts_hold_the_pictures_of_the_pixels():
    rows, found = torch.tensor([0, 0, 1]), torch.tensor([2, 1, 3])
    check_sizes(rows, found, 2, [2, 1, 3])
    check_sizes(torch.tensor([0, 0, 1, 1, 2, 3]), torch.tensor([2, 1, 2, 1, 3, 3]), 4, [2, 1, 3])  # beams
    check_sizes(rows + 1, found, 3, [2, 1, 3])  # a row without a picture
    for sizes in ([2, 4], [1, 2, 3], [3, 3], [6], [2, 1, 1, 2]):
        with pytest.raises(ValueError, match=r"hold pictures of \[2, 1, 3\] tokens"):
            check_sizes(rows, found, 2, sizes)


def splits(width, height, side):
    """(rows, columns) of Idefics3's tiles, by its authors' rule, and the text of a picture as they write it.

    The longer side becomes four tiles; then both are made whole numbers of tiles.
    """
    long, short = max(width, height), min(width, height)
    other = max(int(4 * side / (long / short)), 1)
    other += other % 2
    tiles = -(-other // side)
    rows, columns = (tiles, 4) if width >= height else (4, tiles)
    text = ""
    for row in range(1, rows + 1):
        for column in range(1, columns + 1):
            text += f"<fake_token_around_image><row_{row}_col_{column}>" + "<image>" * 16
        text += "\n"
    whole = "\n<fake_token_around_image><global-img>" + "<image>" * 16 + "<fake_token_around_image>"
    return (rows, columns), text + whole


@pytest.mark.parametrize("family", ["idefics3", "smolvlm"])
@pytest.mark.parametrize("size", SIZES)
def test_smolvlms_tiles_and_markers_by_brute_force(size, family):
    """The text of every picture, what the pixels tell of its tiles, and that the prompt agrees."""
    loaded = toy(family, image_size=112)
    adapter = adapter_for(loaded.model)
    image = gradient(*size)
    (rows, columns), expected = splits(*size, 112)
    inputs = loaded.pictures.encode([image])
    assert loaded.pictures.texts(inputs, 1) == [expected]
    assert adapter.grids(inputs) == [(rows, columns)]
    batch = loaded.encode([Sample("a", "vqa", (image,), "what?", None)])
    adapter.check_prompt(batch["input_ids"], [16 * tile_count((rows, columns))])
    (layout,) = adapter.layouts([], inputs)
    for view in layout.views:
        for cell, token in enumerate(view.tokens.tolist()):
            tile, (top, left) = token // 16, divmod(token % 16, 4)
            seen = inputs["pixel_values"][0, tile, :, 28 * top : 28 * (top + 1), 28 * left : 28 * (left + 1)] / 2 + 0.5
            row, column = divmod(cell, view.grid[1])
            place = (column + 0.5) / view.grid[1], (row + 0.5) / view.grid[0]
            assert seen.mean((1, 2))[:2].tolist() == pytest.approx(place, abs=0.03)


def test_a_row_may_hold_several_pictures():
    """As Hugging Face's processor gives those of a prompt: tiles and prompt agree on which are one."""
    loaded = toy("smolvlm")
    adapter, images = adapter_for(loaded.model), [photo(200, 100), photo(60, 61, 1), photo(50, 200, 2)]
    apart = loaded.encode([Sample("a", "vqa", tuple(images), "<image><image> and <image>?", None)])
    tiles = adapter.tiles(apart)
    together = {
        **apart,
        "pixel_values": tiles[None],
        "pixel_attention_mask": torch.ones(1, *tiles.shape[::2], 56).long(),
    }
    assert together["pixel_attention_mask"].shape[:2] == (1, len(tiles))
    assert adapter.grids(together) == adapter.grids(apart) == [splits(*image.size, 56)[0] for image in images]
    with nuwa.prune(loaded.model, nuwa.load_pruner("nuwa", budget=Budget(ratio=0.3))) as session:
        found = [loaded.model.generate(**batch, max_new_tokens=3, do_sample=False) for batch in (apart, together)]
        assert len(session.report().images) == 3
    assert torch.equal(*found)
    sizes = [4 * tile_count(grid) for grid in adapter.grids(apart)]
    for wrong in (sizes[::-1], [sum(sizes)], [*sizes[:2], 4, sizes[2] - 4]):
        with pytest.raises(ValueError, match="the prompts hold pictures of"):
            adapter.check_prompt(apart["input_ids"], wrong)


def test_padded_tiles_are_refused():
    loaded = toy("smolvlm")
    batch = loaded.encode([Sample("a", "vqa", (photo(80, 60),), "what?", None)])
    batch["pixel_attention_mask"][0, 0, -1] = 0
    with (
        nuwa.prune(loaded.model, KeepAll()),
        pytest.raises(ValueError, match="smolvlm: padded tiles are not supported"),
    ):
        loaded.model.generate(**batch, max_new_tokens=1)


@torch.no_grad()
@pytest.mark.parametrize("name", SHUFFLED)
def test_taps_against_eager_attention(name):
    """Of every token, the mean over its patches, found one by one."""
    family, eager = FAMILIES[name], FAMILIES[name].model("eager")
    adapter, inputs = adapter_for(eager), family.pictures(0, 3)
    taps = {kind: Tap(kind) for kind in ("cls_attention", "received_attention", "keys", "reader_query", "reader_keys")}
    taps |= {"early": Tap("received_attention", layer=0.25), "mean": Tap("hidden_mean", start=0.5)}
    weights, outputs, keys = [], [], []
    with adapter.record(list(taps.values()), inputs) as recording:
        handles = [
            handle
            for layer in adapter.tower_layers
            for handle in (
                attention_of(layer).register_forward_hook(lambda m, a, output: weights.append(output[1])),
                attention_of(layer).k_proj.register_forward_hook(lambda m, a, output: keys.append(output)),
                layer.register_forward_hook(lambda m, a, output: outputs.append(output)),
            )
        ]
        features = adapter.split(adapter.encode_images(**inputs).pooler_output, inputs)
        for handle in handles:
            handle.remove()
    assert len(weights) == 4 and max(weight.std() for weight in weights) > 1e-3
    states, start = torch.stack(outputs[1:]).mean(0), 0
    for image, number in enumerate((0, 3)):
        tokens = len(family.cells(number))
        rows = torch.randperm(tokens, generator=torch.Generator().manual_seed(0))
        seen = {tap: recording.view(taps[tap], image, rows) for tap in taps}
        assert torch.allclose(adapter.project(recording.features(image, rows)), features[image][rows], atol=1e-5)
        for at, token in enumerate(rows.tolist()):
            tile, patches = start + token // family.tokens, patches_of(family, token % family.tokens, recording.cls)
            whole = weights[-1][tile]
            received = whole.mean((0, 1))[patches].mean()
            assert torch.allclose(seen["received_attention"][at], received, atol=1e-6)
            expected = whole[:, 0, patches].mean(1) if recording.cls else whole.mean(1)[:, patches].mean(1)
            assert torch.allclose(seen["cls_attention"][:, at], expected, atol=1e-6)
            assert torch.allclose(seen["early"][at], weights[0][tile].mean((0, 1))[patches].mean(), atol=1e-6)
            assert torch.allclose(seen["keys"][at], keys[-1][tile, patches].mean(0), atol=1e-5)
            assert torch.allclose(seen["mean"][at], states[tile, patches].flatten(), atol=1e-5)
        assert (seen["reader_keys"] is None) == (not recording.cls or tokens > family.tokens)
        start += tokens // family.tokens


def attention_of(layer):
    return getattr(layer, "attention", None) or layer.self_attn


def patches_of(family, token, cls):
    """Places in a tile of the patches of a token, row by row."""
    row, column = divmod(token, family.side)
    factor = family.factor
    return [
        cls + (factor * row + i) * factor * family.side + factor * column + j
        for i in range(factor)
        for j in range(factor)
    ]
