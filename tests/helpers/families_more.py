"""Families that see tiles and then the whole picture: small random models, and where tokens sit, counted by hand."""

from __future__ import annotations

from functools import cache

import torch
from helpers.family import Cell, Family
from helpers.support import IMAGE, boosted, pixels, small_text, small_tower
from torch import Tensor
from transformers import InternVLConfig, InternVLForConditionalGeneration, InternVLVisionConfig, Qwen2Config


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
        features = self.model().model.get_image_features(**self.pictures(*numbers)).pooler_output.flatten(0, 1)
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
