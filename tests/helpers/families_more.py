"""Families that see tiles and then the whole picture: small random models, and where tokens sit, counted by hand."""

from __future__ import annotations

from functools import cache

import torch
from helpers.family import Cell, Family
from helpers.support import IMAGE, boosted, pixels, small_text, small_tower
from torch import Tensor
from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    Qwen2Config,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)


class InternVL(Family):
    """Tiles of 4 x 4 tokens: a wide picture, a tall one, one of a single tile, and a square one of four."""

    name = "internvl"
    before, after = (6,), (7,)
    side, factor, pixels, tokens = 4, 2, 32, 16
    grids = ((1, 2), (3, 1), (1, 1), (2, 2))

    @staticmethod
    @cache
    def model(attention: str = "sdpa", dtype: torch.dtype = torch.float32):
        return random_internvl(attention, dtype)

    def cells(self, picture: int) -> list[Cell]:
        """Tile by tile; of several tiles, the whole picture last."""
        (rows, columns), side = self.grids[picture], range(self.side)
        out = []
        for number in range(rows * columns):
            top, left = number // columns * self.side, number % columns * self.side
            out += [(0, top + row, left + column) for row in side for column in side]
        return out + [(1, row, column) for row in side for column in side if rows * columns > 1]

    def patches(self, picture: int) -> list[list[int]]:
        cells = self.cells(picture)
        views = sorted({view for view, _, _ in cells})
        return [sorted((i for i, cell in enumerate(cells) if cell[0] == view), key=cells.__getitem__) for view in views]

    def pictures(self, *numbers: int) -> dict[str, Tensor]:
        return {"pixel_values": torch.cat([self.tiles(number) for number in numbers])}

    def tiles(self, number: int) -> Tensor:
        """(T, 3, S, S): a picture cut into tiles, and shrunk to one."""
        (rows, columns), side = self.grids[number], self.pixels
        picture = pixels(1, seed=number, side=side * max(rows, columns))[:, :, : side * rows, : side * columns]
        cut = [
            picture[..., side * row : side * (row + 1), side * column : side * (column + 1)]
            for row in range(rows)
            for column in range(columns)
        ]
        whole = [torch.nn.functional.interpolate(picture, (side, side), mode="area")] if rows * columns > 1 else []
        return torch.cat(cut + whole)

    def features(self, *numbers: int) -> list[Tensor]:
        features = self.model().model.get_image_features(**self.pictures(*numbers)).pooler_output
        features = torch.cat(list(features))
        return list(features.split([len(self.cells(number)) for number in numbers]))


def random_internvl(attention: str = "sdpa", dtype: torch.dtype = torch.float32, text=None):
    """8 x 8 patches and 4 x 4 tokens per tile, boosted random weights."""
    torch.manual_seed(0)
    config = InternVLConfig(
        vision_config=small_tower(InternVLVisionConfig, image_size=32, attention_bias=True),
        text_config=text or small_text(Qwen2Config),
        image_token_id=IMAGE,
        image_seq_length=16,
        tie_word_embeddings=False,
    )
    config._attn_implementation = attention
    model = boosted(InternVLForConditionalGeneration(config), 3.0)
    with torch.no_grad():
        model.model.vision_tower.embeddings.cls_token.normal_()
        model.model.vision_tower.embeddings.position_embeddings.normal_()
    return model.eval().to(dtype)


class SmolVLM(InternVL):
    """As InternVL's pictures, without a CLS token; markers between tiles, every picture in a row of its own."""

    name = "smolvlm"
    kind: tuple[type, type] = (SmolVLMForConditionalGeneration, SmolVLMConfig)
    fence, newline, newlines, whole, markers = 5, 6, 7, 8, 9

    @classmethod
    @cache
    def model(cls, attention: str = "sdpa", dtype: torch.dtype = torch.float32):
        return random_idefics(*cls.kind, attention, dtype)

    def picture_ids(self, picture: int) -> list[int]:
        (rows, columns), tile = self.grids[picture], [IMAGE] * self.tokens
        out = []
        for row in range(rows if rows * columns > 1 else 0):
            for column in range(columns):
                out += [self.fence, self.markers + 4 * row + column, *tile]
            out.append(self.newline if row < rows - 1 else self.newlines)
        return [*out, self.fence, self.whole, *tile, self.fence]

    def pictures(self, *numbers: int) -> dict[str, Tensor]:
        rows = [self.tiles(number) for number in numbers]
        values = torch.zeros(len(rows), max(map(len, rows)), 3, self.pixels, self.pixels)
        for row, tiles in zip(values, rows, strict=True):
            row[: len(tiles)] = tiles
        return {"pixel_values": values, "pixel_attention_mask": values.ne(0).any(2).long()}


class Idefics3(SmolVLM):
    """As SmolVLM, under its older name."""

    name = "idefics3"
    kind = (Idefics3ForConditionalGeneration, Idefics3Config)


def random_idefics(model, config, attention: str = "sdpa", dtype: torch.dtype = torch.float32):
    """8 x 8 patches and 4 x 4 tokens per tile, no CLS token, boosted random weights."""
    torch.manual_seed(0)
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2}
    config = config(
        vision_config={**vision, "image_size": 32, "patch_size": 4},
        text_config=small_text(),
        image_token_id=IMAGE,
        scale_factor=2,
        pad_token_id=0,
    )
    config._attn_implementation = attention
    return boosted(model(config), 3.0).eval().to(dtype)
