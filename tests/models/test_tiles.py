"""Pictures of tiles that their whole follows: which tiles are one, where its tokens are, and what is read of them."""

import numpy as np
import pytest
import torch
from helpers.families import FAMILIES
from helpers.families_toy import toy
from PIL import Image

import nuwa
from nuwa.models import adapter_for
from nuwa.models.tiles import check_runs, picture_grids, tile_count
from nuwa.pruners import KeepAll
from nuwa.pruners.base import Tap
from nuwa.samples import Sample

SIZES = [
    (448, 448), (449, 447), (640, 480), (480, 640), (1344, 448), (448, 1400), (200, 40), (40, 200), (31, 57),
    (1000, 999), (3000, 250), (120, 1440), (800, 600), (600, 840), (1920, 1080), (333, 777), (777, 333), (90, 1080),
    (512, 64), (15, 14),
]  # fmt: skip
"""Twenty (width, height): one tile, all sorts of shapes, and beyond 12 to 1."""
SHUFFLED = ("internvl",)


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
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
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
            seen = (inputs["pixel_values"][tile] * std + mean)[
                :, 28 * top : 28 * (top + 1), 28 * left : 28 * (left + 1)
            ]
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


def test_runs_of_placeholders_are_pictures():
    rows = torch.tensor([[0, 1, 1, 0, 1], [1, 1, 1, 0, 0]]).bool()
    check_runs(rows, [2, 1, 3])
    check_runs(rows.repeat_interleave(2, 0), [2, 1, 3])
    check_runs(torch.cat([torch.zeros(1, 5, dtype=torch.bool), rows]), [2, 1, 3])
    for sizes in ([2, 4], [1, 2, 3], [3, 3], [6], [2, 1, 1, 2]):
        with pytest.raises(ValueError, match=r"hold pictures of \[2, 1, 3\] tokens"):
            check_runs(rows, sizes)


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
