"""LLaVA-NeXT and LLaVA-OneVision: small random models, and where tiles and newlines sit, counted by hand."""

from __future__ import annotations

from functools import cache

import torch
from helpers.family import Cell, Family
from helpers.support import IMAGE, boosted, pixels, small_text, small_tower
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2Config,
    SiglipVisionConfig,
)

from nuwa.models import adapter_for

PINPOINTS = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
"""Of every released LLaVA-NeXT."""


class LlavaNext(Family):
    """LLaVA-NeXT with a 4x4 grid per crop: a wide, a tall, a square picture, and one that its tiles do not fit."""

    name = "llava_next"
    side = 4
    pinpoints = ((16, 32), (32, 16), (32, 32), (16, 48))
    sizes = ((12, 29), (40, 17), (33, 33), (20, 32))

    @staticmethod
    @cache
    def model(attention: str = "sdpa", dtype: torch.dtype = torch.float32):
        return random_llava_next(attention, dtype)

    def cells(self, picture: int) -> list[Cell]:
        height, width = unpadded(self.sizes[picture], self.pinpoints, self.side * 4, self.side)
        base = [(0, row, column) for row in range(self.side) for column in range(self.side)]
        return base + [(1, row, column) for row in range(height) for column in (*range(width), None)]

    def pictures(self, *numbers: int) -> dict[str, Tensor]:
        sizes = [self.sizes[number] for number in numbers]
        tiles = [best_tiles(size, self.pinpoints, self.side * 4) for size in sizes]
        crops = [1 + height * width for height, width in tiles]
        values = torch.full((len(numbers), max(crops), 3, self.side * 4, self.side * 4), 7.0)  # padding is never read
        for i, (number, count) in enumerate(zip(numbers, crops, strict=True)):
            values[i, :count] = pixels(count, seed=number, side=self.side * 4)
        return {"pixel_values": values, "image_sizes": torch.tensor(sizes)}


class LlavaNextVideo(LlavaNext):
    """LLaVA-NeXT-Video: as LLaVA-NeXT, and videos."""

    name = "llava_next_video"

    @staticmethod
    @cache
    def model(attention: str = "sdpa", dtype: torch.dtype = torch.float32):
        model = random_llava_next_video().to(dtype)
        model.set_attn_implementation(attention)
        return model


class LlavaOnevision(LlavaNext):
    """As LLaVA-NeXT, without CLS tokens; the tiles of the third picture (8x8) are interpolated to 6x6."""

    name = "llava_onevision"
    limit = 3

    @staticmethod
    @cache
    def model(attention: str = "sdpa", dtype: torch.dtype = torch.float32):
        return random_onevision(attention, dtype)

    def cells(self, picture: int) -> list[Cell]:
        height, width = shrunk(*unpadded(self.sizes[picture], self.pinpoints, 16, self.side), self.side, self.limit)
        base = [(0, row, column) for row in range(self.side) for column in range(self.side)]
        return base + [(1, row, column) for row in range(height) for column in (*range(width), None)]


def shrunk(height: int, width: int, side: int, limit: int) -> tuple[int, int]:
    """OneVision's grid: made smaller where it holds more than ``limit`` crops, by a tenth at least."""
    ratio = (height * width / (limit * side * side)) ** 0.5
    return (int(height // ratio), int(width // ratio)) if ratio > 1.1 else (height, width)


def best_tiles(size: tuple[int, int], pinpoints, tile: int) -> tuple[int, int]:
    """How many tiles high and wide a picture (height, width) is cut: most of it visible, then least wasted."""

    def waste(pinpoint):
        scale = min(pinpoint[0] / size[0], pinpoint[1] / size[1])
        seen = min(int(size[0] * scale) * int(size[1] * scale), size[0] * size[1])
        return -seen, pinpoint[0] * pinpoint[1] - seen

    height, width = min(pinpoints, key=waste)
    return height // tile, width // tile


def unpadded(size: tuple[int, int], pinpoints, tile: int, side: int) -> tuple[int, int]:
    """Rows and columns of the stitched tiles that are not padding, counted one by one.

    A picture of another shape than its canvas is centred on it; as many rows (or columns) are cut on both sides.
    """
    height, width = (count * side for count in best_tiles(size, pinpoints, tile))
    rows = height if size[1] * height <= size[0] * width else int(round(size[0] * width / size[1], 7))
    columns = width if size[1] * height >= size[0] * width else int(round(size[1] * height / size[0], 7))
    kept = [
        [i for i in range(whole) if (whole - real) // 2 <= i < whole - (whole - real) // 2]
        for whole, real in ((height, rows), (width, columns))
    ]
    return len(kept[0]), len(kept[1])


def source_of(size: tuple[int, int], side: int = 24, pinpoints=PINPOINTS, tile: int = 336) -> list[int]:
    """Row numbers of the vision features in prompt order, placeholder by placeholder; -1 for newlines."""
    tiles_high, tiles_wide = best_tiles(size, pinpoints, tile)
    height, width = unpadded(size, pinpoints, tile, side)
    top, left = (tiles_high * side - height) // 2, (tiles_wide * side - width) // 2
    out = list(range(side * side))
    for row in range(top, top + height):
        for column in range(left, left + width):
            crop = 1 + row // side * tiles_wide + column // side
            out.append(crop * side * side + row % side * side + column % side)
        out.append(-1)
    return out


@cache
def of_real_size():
    """The adapter of a LLaVA-NeXT with 24x24 patches per tile, and next to no weights."""
    tiny = {"hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": 3, "num_attention_heads": 1}
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(image_size=336, patch_size=14, **tiny),
        text_config=small_text(layers=1),
        image_grid_pinpoints=[list(pinpoint) for pinpoint in PINPOINTS],
    )
    return adapter_for(LlavaNextForConditionalGeneration(config))


def random_llava_next(attention: str = "sdpa", dtype: torch.dtype = torch.float32, text=None):
    """A 4x4 grid per crop, 16-pixel tiles, boosted random weights."""
    torch.manual_seed(0)
    config = LlavaNextConfig(
        vision_config=small_tower(image_size=16, projection_dim=16),
        text_config=text or small_text(),
        image_token_id=IMAGE,
        image_token_index=IMAGE,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_grid_pinpoints=[list(pinpoint) for pinpoint in LlavaNext.pinpoints],
    )
    config._attn_implementation = attention
    model = boosted(LlavaNextForConditionalGeneration(config), 3.0)
    with torch.no_grad():
        model.model.vision_tower.embeddings.class_embedding.normal_()
        model.model.image_newline.normal_()
    return model.eval().to(dtype)


def random_llava_next_video():
    """As LLaVA-NeXT's: frames of 4x4 patches, pooled to 2x2."""
    torch.manual_seed(0)
    config = LlavaNextVideoConfig(
        vision_config=small_tower(image_size=16, projection_dim=16),
        text_config=small_text(),
        image_token_index=IMAGE,
        video_token_index=3,
        image_grid_pinpoints=[list(pinpoint) for pinpoint in LlavaNext.pinpoints],
    )
    config._attn_implementation = "eager"
    model = boosted(LlavaNextVideoForConditionalGeneration(config), 3.0)
    with torch.no_grad():
        model.model.vision_tower.embeddings.class_embedding.normal_()
        model.model.image_newline.normal_()
    return model.eval()


def random_onevision(attention: str = "sdpa", dtype: torch.dtype = torch.float32):
    """A 4x4 grid per crop, no CLS token, at most three crops' tokens of tiles, boosted random weights."""
    torch.manual_seed(0)
    config = LlavaOnevisionConfig(
        vision_config=small_tower(SiglipVisionConfig, image_size=16, vision_use_head=False),
        text_config=small_text(Qwen2Config),
        image_token_index=IMAGE,
        video_token_index=3,
        image_grid_pinpoints=[list(pinpoint) for pinpoint in LlavaNext.pinpoints],
        vision_aspect_ratio=f"anyres_max_{LlavaOnevision.limit}",
    )
    config._attn_implementation = attention
    model = boosted(LlavaOnevisionForConditionalGeneration(config), 3.0)
    with torch.no_grad():
        model.model.image_newline.normal_()
    return model.eval().to(dtype)
