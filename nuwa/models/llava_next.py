"""LLaVA-NeXT: the whole image in one square, and its tiles stitched to one grid whose rows newlines close.

Vicuna and Mistral text models. The base view is a plain grid; the tile view is as wide and high as the image once the
padding of the tiles is cut off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape

from nuwa.models.llava import LlavaAdapter
from nuwa.pruning.layout import Grid, ImageLayout, VisionView


def tiled_layout(source: Tensor, base: Grid, tiles: Grid, size: Grid) -> ImageLayout:
    """The layout of a base view followed by a tile view: ``source`` (n_tokens,) and ``size`` as in `ImageLayout`.

    Nothing is left of the tile view of an image that is thinner than a patch.
    """
    cells = base[0] * base[1]
    views = [VisionView(base, torch.arange(cells))]
    places = torch.arange(cells, len(source))
    newlines = places[source[cells:] < 0]
    if len(newlines):
        grid = len(newlines), len(places) // len(newlines) - 1
        views.append(VisionView(grid, places[source[cells:] >= 0], newlines, tiles))
    return ImageLayout(len(source), source, tuple(views), size)


class LlavaNextAdapter(LlavaAdapter):
    """`LlavaNextForConditionalGeneration` with a CLIP vision tower."""

    model_type = "llava_next"

    @property
    def grid(self) -> None:
        return None

    def tiles(self, arguments: Mapping[str, Any]) -> list[Grid]:
        """How many tiles high and wide each image is cut."""
        config = self.model.config
        return [
            get_anyres_image_grid_shape(size, config.image_grid_pinpoints, config.vision_config.image_size)
            for size in arguments["image_sizes"]
        ]

    def crops(self, arguments: Mapping[str, Any]) -> list[int]:
        return [1 + height * width for height, width in self.tiles(arguments)]

    def pixels(self, arguments: Mapping[str, Any]) -> list[Tensor]:
        pixels, crops = arguments["pixel_values"], self.crops(arguments)
        if pixels.dim() == 4:
            return list(pixels.split(crops))
        return [image[:count] for image, count in zip(pixels, crops, strict=True)]

    def sizes(self, arguments: Mapping[str, Any]) -> list[tuple[int, ...]]:
        return [tuple(map(int, size)) for size in arguments["image_sizes"]]

    def choose(self, arguments: Mapping[str, Any], images: Sequence[int]) -> dict[str, Any]:
        pixels, chosen = arguments["pixel_values"], list(images)
        if pixels.dim() == 4:
            every = self.pixels(arguments)
            pixels = torch.cat([every[image] for image in chosen])
        else:
            pixels = pixels[chosen]
        return {**arguments, "pixel_values": pixels, "image_sizes": torch.as_tensor(arguments["image_sizes"])[chosen]}

    def layouts(self, images: Sequence[Tensor], arguments: Mapping[str, Any]) -> list[ImageLayout]:
        tiles, crops = self.tiles(arguments), self.crops(arguments)
        layouts = [
            tiled_layout(self.pack_rows(arguments, image, crops[image]), self.square, tiles[image], size)
            for image, size in enumerate(self.sizes(arguments))
        ]
        return [replace(layout, crop=self.crop_of(layout.source)) for layout in layouts]

    def crop_of(self, source: Tensor) -> Tensor | None:
        """`ImageLayout.crop` from the rows (n_tokens,) of vision features."""
        return source // (self.square[0] * self.square[1])

    def pack_rows(self, arguments: Mapping[str, Any], image: int, crops: int) -> Tensor:
        """Row numbers of an image's vision features, packed by the model as it packs the features; -1 for newlines."""
        size, cells = arguments["image_sizes"][image], self.square[0] * self.square[1]
        rows = torch.arange(crops * cells).view(crops, cells, 1)
        packed, _ = self.multimodal.pack_image_features(
            [rows], [size], vision_feature_select_strategy=self.selection, image_newline=torch.tensor([-1])
        )
        return packed[0][:, 0]
