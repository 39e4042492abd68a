"""Model families that the engine tests run on: a small random model, four pictures and their geometry each.

A family joins the matrix with one line in ``FAMILIES``; one whose position ids have a single axis and whose layers are
Llama's joins ``PLAIN`` too, the comparison with plain decoding.
"""

from __future__ import annotations

from functools import cache

import torch
from support import (
    IMAGE,
    SIDE,
    VOCABULARY,
    batch,
    boosted,
    kept_tokens,
    pixels,
    random_llava,
    small_text,
    survives,
)
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2Config,
    SiglipVisionConfig,
)

Cell = tuple[int, int, int | None]
"""View, row and column of a placeholder; the column of a newline is None."""

PROMPTS = {
    "first": (("image", 7), (0,)),
    "middle": ((5, "image", 3), (0,)),
    "two": ((3, "image", 4, "image", 6), (1, 2)),
    "last": ((6, "image"), (3,)),
}
"""Prompts: text lengths and images, and the numbers of the pictures."""


PINPOINTS = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
"""Of every released LLaVA-NeXT."""


class Family:
    """LLaVA-1.5, and what others override."""

    name = "llava"
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()

    @staticmethod
    @cache
    def model(attention: str = "sdpa", dtype: torch.dtype = torch.float32):
        return random_llava(attention, dtype)

    def cells(self, picture: int) -> list[Cell]:
        """What each placeholder of a picture stands for."""
        return [(0, row, column) for row in range(SIDE) for column in range(SIDE)]

    def pictures(self, *numbers: int) -> dict[str, Tensor]:
        """What the processor gives the model for pictures, padding of a batch included."""
        return {"pixel_values": pixels(4)[list(numbers)]}

    def finish(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Anything else that the model wants with a batch."""
        return inputs

    def ids(self, prompt: str) -> list[int]:
        """The token ids of a prompt of ``PROMPTS``: numbers are text lengths, filled with varying ids."""
        parts, numbers = PROMPTS[prompt]
        ids, pictures = [1], iter(numbers)
        for place, part in enumerate(parts):
            if part == "image":
                ids += [*self.before, *[IMAGE] * len(self.cells(next(pictures))), *self.after]
            else:
                ids += [8 + (7 * place + 3 * k) % (VOCABULARY - 8) for k in range(part)]
        return ids

    def inputs(self, *prompts: str, side: str = "left", numbered: bool = False) -> dict[str, Tensor]:
        """A padded batch; ``numbered`` position ids as `generate` makes them, not counting padding."""
        numbers = [number for prompt in prompts for number in PROMPTS[prompt][1]]
        inputs = batch(*map(self.ids, prompts), side=side) | self.pictures(*numbers)
        if numbered:
            inputs["position_ids"] = (inputs["attention_mask"].cumsum(1) - 1).clamp_min(0)
        return self.finish(inputs)

    def patches(self, picture: int) -> list[list[int]]:
        """Placeholders of the patches of each view of a picture, in raster order."""
        cells = self.cells(picture)
        views = sorted({view for view, _, _ in cells})
        return [[i for i, (v, _, column) in enumerate(cells) if v == view and column is not None] for view in views]

    def with_newlines(self, picture: int, patches: set[int]) -> list[int]:
        """Kept patches of a picture and the newlines of every row that still has one."""
        cells = self.cells(picture)
        rows = {cells[i][:2] for i in patches}
        return [i for i, (view, row, c) in enumerate(cells) if i in patches or (c is None and (view, row) in rows)]


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


def random_llava_next(attention: str = "sdpa", dtype: torch.dtype = torch.float32, text=None):
    """A 4x4 grid per crop, 16-pixel tiles, boosted random weights."""
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=16,
        patch_size=4,
        projection_dim=16,
    )
    config = LlavaNextConfig(
        vision_config=vision,
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


from families_qwen import Qwen  # noqa: E402 (which needs Family)


def random_onevision(attention: str = "sdpa", dtype: torch.dtype = torch.float32):
    """A 4x4 grid per crop, no CLS token, at most three crops' tokens of tiles, boosted random weights."""
    torch.manual_seed(0)
    vision = SiglipVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=16,
        patch_size=4,
        vision_use_head=False,
    )
    config = LlavaOnevisionConfig(
        vision_config=vision,
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


FAMILIES = {family.name: family for family in (Family(), LlavaNext(), LlavaOnevision(), Qwen())}
PLAIN = ("llava", "llava_next", "llava_onevision")


def fixed_keep(family: Family, prompt: str, stride: int) -> list[list[int]]:
    """What `Fixed` lets into the LLM of each picture of a prompt, newlines with it."""
    return [
        family.with_newlines(
            number, {view[i] for view in family.patches(number) for i in kept_tokens(len(view), stride, 1)}
        )
        for number in PROMPTS[prompt][1]
    ]


def fixed_stage(family: Family, prompt: str, stride: int, stage: int):
    """What `Fixed` does at a stage in the LLM, for `plain_decode`."""

    def choose(hidden, entries):
        return stay_with_newlines(family, prompt, entries, lambda i: survives(entries[i][2], stride, stage))

    return choose


def merging_stage(family: Family, prompt: str):
    """What `Merging` does, for `plain_decode`."""

    def choose(hidden, entries):
        patches = patches_of(family, prompt, entries)
        new = {mine[1]: torch.stack([hidden[i] for i in mine[1::2]]).mean(0) for mine in patches.values()}
        even = {i for mine in patches.values() for i in mine[::2]}
        places, ends = stay_with_newlines(family, prompt, entries, even.__contains__), {}
        for mine in patches.values():
            ends[max(i for i in places if entries[i][1] == entries[mine[0]][1])] = mine[1]
        return [i for place in places for i in (place, ends.get(place)) if i is not None], new

    return choose


def stay_with_newlines(family: Family, prompt: str, entries, stays) -> list[int]:
    """Indices of text, of the patches that stay, and of the newlines of their rows, as they stand."""
    patches = patches_of(family, prompt, entries)
    kept = {}
    for image, mine in patches.items():
        tokens = {entries[i][2] for i in mine if stays(i)}
        kept[image] = set(family.with_newlines(PROMPTS[prompt][1][image], tokens))
    return [i for i, (_, image, token) in enumerate(entries) if image < 0 or token in kept[image]]


def patches_of(family: Family, prompt: str, entries) -> dict[int, list[int]]:
    """Image -> indices of the entries that are its patches."""
    out: dict[int, list[int]] = {}
    for i, (_, image, token) in enumerate(entries):
        if image >= 0 and family.cells(PROMPTS[prompt][1][image])[token][2] is not None:
            out.setdefault(image, []).append(i)
    return out
