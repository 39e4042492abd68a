"""Pictures of kept tokens: what stays of an image at each pruning stage, drawn on the image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageOps

from nuwa.pruning.layout import Grid

KEPT, PILLAR = "#0072B2", "#E69F00"  # Okabe and Ito's blue and orange: told apart with any kind of colour vision
SIDE, CAPTION, GAP = 336, 18, 8


def draw_stages(
    image: Image.Image,
    grid: Grid,
    stages: Sequence[tuple[int, Sequence[int]]],
    pillars: Sequence[int] = (),
) -> Image.Image:
    """One panel per stage (layer, kept tokens): dropped cells are washed out, kept ones framed, pillars in orange.

    ``image`` is the picture the vision tower saw, so that the grid covers all of it.
    """
    panels = [
        _panel(image, grid, kept, pillars, f"enters layer {layer}: {len(kept)} of {grid[0] * grid[1]}")
        for layer, kept in stages
    ]
    width = sum(panel.width for panel in panels) + GAP * (len(panels) - 1)
    sheet = Image.new("RGB", (width, panels[0].height), "white")
    left = 0
    for panel in panels:
        sheet.paste(panel, (left, 0))
        left += panel.width + GAP
    return sheet


def _panel(image: Image.Image, grid: Grid, kept: Sequence[int], pillars: Sequence[int], caption: str) -> Image.Image:
    rows, columns = grid
    cell = max(4, SIDE // max(rows, columns))
    picture = image.convert("RGB").resize((columns * cell, rows * cell), Image.Resampling.BILINEAR)
    washed = Image.blend(ImageOps.grayscale(picture).convert("RGB"), Image.new("RGB", picture.size, "white"), 0.65)
    stays, marked = set(kept), set(pillars)
    boxes = {token: _box(token, columns, cell) for token in sorted(stays) if token < rows * columns}
    for box in boxes.values():
        washed.paste(picture.crop(box), box[:2])
    draw = ImageDraw.Draw(washed)
    for token, (x0, y0, x1, y1) in boxes.items():
        draw.rectangle((x0, y0, x1 - 1, y1 - 1), outline=PILLAR if token in marked else KEPT)
    panel = Image.new("RGB", (washed.width, washed.height + CAPTION), "white")
    panel.paste(washed, (0, CAPTION))
    ImageDraw.Draw(panel).text((2, 3), caption, fill="black")
    return panel


def _box(token: int, columns: int, cell: int) -> tuple[int, int, int, int]:
    row, column = divmod(token, columns)
    return column * cell, row * cell, (column + 1) * cell, (row + 1) * cell


def pillar_tokens(extras: dict[str, torch.Tensor], kept: Sequence[int]) -> list[int]:
    """Token indices of the pillars, whether the method marked all tokens or only those that entered the LLM."""
    mark = extras.get("pillar")
    if mark is None:
        return []
    chosen = torch.nonzero(mark.flatten().bool()).flatten().tolist()
    return [kept[i] for i in chosen if i < len(kept)] if mark.numel() == len(kept) else chosen
