"""LLaVA-NeXT: the whole image in one square, and its tiles stitched to one grid whose rows newlines close.

Vicuna and Mistral text models. The base view is a plain grid; the tile view is as wide and high as the image once the
padding of the tiles is cut off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from nuwa.models.llava import Llava
from nuwa.models.processors import PictureOptions, PictureProcessor, Source, TiledProcessor, make_pil, text_processor
from nuwa.models.random_configs import Sizes
from nuwa.pruning.layout import Grid, ImageLayout, VisionView

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerFast


ARRANGEMENTS = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))
"""How tiles of the released checkpoints are arranged, high and wide."""


def tiled_layout(source: Tensor, base: Grid, tiles: Grid, size: Grid) -> ImageLayout:
    """The layout of a base view followed by a tile view: ``source`` (n_tokens,) and ``size`` as in `ImageLayout`.

    Nothing is left of the tile view of an image that is thinner than a patch.

    >>> layout = tiled_layout(torch.tensor([0, 1, -1, 2, -1]), base=(1, 1), tiles=(2, 1), size=(20, 10))
    >>> [view.grid for view in layout.views], layout.group
    ([(1, 1), (2, 1)], tensor([-1,  0,  0,  1,  1]))
    """
    cells = base[0] * base[1]
    views = [VisionView(base, torch.arange(cells))]
    places = torch.arange(cells, len(source))
    rows = int((source[cells:] < 0).sum())
    if not rows:
        return ImageLayout(len(source), source, tuple(views), size)
    width = len(places) // rows
    views.append(VisionView((rows, width - 1), places[source[cells:] >= 0], tiles))
    group = torch.cat([torch.full((cells,), -1), torch.arange(rows).repeat_interleave(width)])
    return ImageLayout(len(source), source, tuple(views), size, group=group)


class LlavaNext(Llava):
    """`LlavaNextForConditionalGeneration` with a CLIP vision tower."""

    model_type = "llava_next"
    architecture = "LlavaNextForConditionalGeneration"
    texts: ClassVar[str] = "LlavaNextProcessor"
    """transformers' class of its texts."""

    @classmethod
    def random_config(cls, tokenizer: PreTrainedTokenizerFast, sizes: Sizes) -> PreTrainedConfig:
        """As LLaVA-1.5, with up to four tiles in five arrangements."""
        from transformers import LlavaNextConfig

        pinpoints = [[sizes.image_size * side for side in sides] for sides in ARRANGEMENTS]
        return LlavaNextConfig(**cls.random_parts(tokenizer, sizes), image_grid_pinpoints=pinpoints)

    @classmethod
    def pictures(cls, config: PreTrainedConfig, source: Source, options: PictureOptions) -> PictureProcessor:
        import transformers

        options.require_only(cls.model_type)
        vision, side = config.vision_config, config.vision_config.image_size
        shape = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
        settings = shape | {"image_grid_pinpoints": config.image_grid_pinpoints}
        pil = make_pil(transformers.LlavaNextImageProcessorPil, source, settings)
        texts = text_processor(getattr(transformers, cls.texts), pil, cls.placeholder, **cls.text_settings(config))
        return TiledProcessor(pil, texts, side, side // vision.patch_size)

    @property
    def grid(self) -> None:
        return None

    def tiles(self, arguments: Mapping[str, Any]) -> list[Grid]:
        """How many tiles high and wide each image is cut."""
        from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape

        pinpoints, side = self.config.image_grid_pinpoints, self.config.vision_config.image_size
        return [get_anyres_image_grid_shape(size, pinpoints, side) for size in arguments["image_sizes"]]

    def crops(self, arguments: Mapping[str, Any]) -> list[int]:
        return [1 + height * width for height, width in self.tiles(arguments)]

    def pixels(self, arguments: Mapping[str, Any]) -> Sequence[Tensor]:
        pixels, crops = arguments["pixel_values"], self.crops(arguments)
        if pixels.dim() == 4:
            return list(pixels.split(crops))
        return [image[:count] for image, count in zip(pixels, crops, strict=True)]

    def sizes(self, arguments: Mapping[str, Any]) -> Sequence[Grid]:
        return [(int(height), int(width)) for height, width in arguments["image_sizes"]]

    def select_images(self, arguments: Mapping[str, Any], images: Sequence[int]) -> dict[str, Any]:
        pixels, sizes = self.pixels(arguments), torch.as_tensor(arguments["image_sizes"])[list(images)]
        return {**arguments, "pixel_values": torch.cat([pixels[image] for image in images]), "image_sizes": sizes}

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
        from transformers import LlavaNextModel

        size, cells = arguments["image_sizes"][image], self.square[0] * self.square[1]
        rows = torch.arange(crops * cells).view(crops, cells, 1)
        pack: Any = LlavaNextModel.pack_image_features  # reads nothing of the model but its config
        packed, _ = pack(self, [rows], [size], self.selection, image_newline=torch.tensor([-1]))
        return packed[0][:, 0]
