"""Boxes on grids: a coloured patch in the picture is found in the token that the geometry names."""

import pytest
import torch
from helpers.families_toy import toy
from PIL import Image, ImageDraw

from nuwa.models import adapter_for
from nuwa.models.llava import Llava
from nuwa.models.processors import PictureOptions
from nuwa.pictures.geometry import BoxError, center_patch, in_frame, patches_in_box, view_frames

SIZES = [(96, 96), (140, 61), (52, 133), (200, 150)]
PLACES = [(0.2, 0.3), (0.55, 0.5), (0.83, 0.71)]


def planted(size, x, y, share=0.11):
    """A grey picture with a red patch around (x, y), and the patch's box."""
    box = (x - share / 2, y - share / 2, x + share / 2, y + share / 2)
    picture = Image.new("RGB", size, (100, 100, 100))
    corners = [round(value * side) for value, side in zip(box, size * 2, strict=True)]
    ImageDraw.Draw(picture).rectangle((*corners[:2], corners[2] - 1, corners[3] - 1), fill=(255, 0, 0))
    return picture, box


def redness(patches, channel):
    """Red minus green of patches: the mean over all but the first dimension."""
    red, green = patches.select(channel, 0), patches.select(channel, 1)
    return (red - green).flatten(1).mean(1)


def red_tokens(family, loaded, picture):
    """Redness of every patch token of each view, from the pixels the tower gets, and the views' grids."""
    inputs = loaded.pictures.encode([picture])
    adapter = adapter_for(loaded.model)
    with torch.no_grad():
        features = loaded.model.model.get_image_features(**inputs).pooler_output
    layout = adapter.layouts(list(features), inputs)[0]
    values = inputs["pixel_values"].float()
    if family == "qwen2_5_vl":
        red = redness(values.unflatten(1, (3, -1)), 1).view(-1, 4).mean(1)
    else:
        crops = values.flatten(0, 1) if values.dim() == 5 else values
        patch = loaded.model.config.vision_config.patch_size
        cells = crops.unfold(2, patch, patch).unfold(3, patch, patch)  # (crops, 3, rows, columns, patch, patch)
        red = redness(cells.permute(0, 2, 3, 1, 4, 5).flatten(0, 2), 1)
    return [(view.grid, red[layout.source[view.tokens]]) for view in layout.views]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("family", ["llava", "llava_next", "qwen2_5_vl"])
def test_planted_patch(family, size):
    loaded = toy(family)
    for x, y in PLACES:
        picture, box = planted(size, x, y)
        views = red_tokens(family, loaded, picture)
        frames = view_frames(loaded.pictures, size, len(views))
        assert len(views) == (2 if family == "llava_next" else 1)
        for (grid, red), frame in zip(views, frames, strict=True):
            where = in_frame(box, frame)
            found, named = int(red.argmax()), center_patch(grid, where)
            distance = max(abs(found // grid[1] - named // grid[1]), abs(found % grid[1] - named % grid[1]))
            share = red[named] / red[found]
            assert distance == 0 or (distance == 1 and share > 0.4), (
                grid,
                divmod(found, grid[1]),
                divmod(named, grid[1]),
            )
            inside = patches_in_box(grid, where)
            around = [i for i in range(grid[0] * grid[1]) if touches(grid, i, where)]
            assert set(inside) <= set(around)
            assert float(red[around].clamp(min=0).sum() / red.clamp(min=0).sum()) > 0.9


def touches(grid, cell, box, margin=0.5):
    """Whether a cell, half a cell wider (resampling smears), meets a box."""
    row, column = divmod(cell, grid[1])
    x0, x1 = (column - margin) / grid[1], (column + 1 + margin) / grid[1]
    y0, y1 = (row - margin) / grid[0], (row + 1 + margin) / grid[0]
    return x0 < box[2] and x1 > box[0] and y0 < box[3] and y1 > box[1]


@pytest.mark.parametrize("frame", ["pad", "crop"])
def test_square_frames(frame):
    loaded = toy("llava")
    pictures = Llava.pictures(loaded.model.config, {}, PictureOptions(image_frame=frame))
    (found,) = view_frames(pictures, (200, 100), 1)
    assert found == ((0.0, -0.5, 1.0, 1.5) if frame == "pad" else (0.25, 0.0, 0.75, 1.0))


def test_patches_by_hand():
    assert patches_in_box((4, 4), (0.0, 0.0, 0.5, 0.5)) == [0, 1, 4, 5]
    assert patches_in_box((4, 4), (0.3, 0.55, 0.31, 0.56)) == [9]  # smaller than a cell: the one it lies in
    assert center_patch((2, 3), (0.0, 0.0, 1.0, 1.0)) == 4
    assert center_patch((2, 3), (1.0, 1.0, 1.0, 1.0)) == 5


@pytest.mark.parametrize(
    ("box", "frame", "reason"),
    [
        ((0.5, 0.2, 0.5, 0.4), (0, 0, 1, 1), "empty"),
        ((0.6, 0.2, 0.4, 0.4), (0, 0, 1, 1), "empty"),
        ((1.1, 0.2, 1.4, 0.4), (0, 0, 1, 1), "outside"),
        ((-0.4, -0.2, 0.0, 0.4), (0, 0, 1, 1), "outside"),
        ((0.0, 0.0, 0.2, 0.4), (0.25, 0, 0.75, 1), "no token sees"),
    ],
)
def test_boxes_without_tokens(box, frame, reason):
    with pytest.raises(BoxError, match=reason):
        in_frame(box, frame)


def test_boxes_are_cut_at_the_edge():
    assert in_frame((-0.5, 0.2, 0.5, 1.4), (0, 0, 1, 1)) == (0, 0.2, 0.5, 1)
    assert in_frame((0.0, 0.0, 0.5, 1.0), (0.0, -0.5, 1.0, 1.5)) == (0.0, 0.25, 0.5, 0.75)
