"""Pictures as each family's vision tower takes them, and how many placeholders each needs. PIL only, no torchvision.

Shape letters: M pictures, T tiles, S side of a square, P patches of all pictures, D values of a patch.
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from PIL import Image
from torch import Tensor
from transformers import LlavaNextImageProcessorPil, LlavaOnevisionImageProcessorPil, Qwen2VLImageProcessorPil
from transformers.image_processing_utils import select_best_resolution
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from nuwa.samples import SampleError, to_rgb

Size = tuple[int, int]
"""(width, height) in pixels, as PIL counts."""
LONGEST = 8192
"""Longest side, in pixels, of a picture that is padded to a square; longer ones are shrunk before, or a thin strip of a
picture would take gigabytes."""


class PictureProcessor(ABC):
    """Turns pictures into the image inputs of one family; ``pil`` is transformers' processor behind it.

    ``marks_placeholders``: the model wants ``mm_token_type_ids``, 1 on placeholders, to know where pictures are.
    """

    marks_placeholders: ClassVar[bool] = False

    def __init__(self, pil) -> None:
        self.pil = pil

    def encode(self, images: Sequence[Image.Image]) -> dict[str, Tensor]:
        """Inputs of ``get_image_features`` for M pictures of any mode."""
        return dict(self.pil([to_rgb(image) for image in images], return_tensors="pt"))

    @abstractmethod
    def tokens(self, image: Image.Image) -> int:
        """Placeholders that a picture needs in the prompt.

        Raises:
            SampleError: the tower cannot take a picture of this shape.
        """

    @abstractmethod
    def seen(self, image: Image.Image) -> Image.Image:
        """The picture as the tower sees it in one piece: padded, cropped or resized."""


class SquareProcessor(PictureProcessor):
    """LLaVA-1.5: every picture becomes one square, ``pixel_values`` (M, 3, S, S); ``count`` placeholders each."""

    def __init__(self, pil: LlavaImageProcessorPil, count: int) -> None:
        super().__init__(pil)
        self.count = count

    def encode(self, images: Sequence[Image.Image]) -> dict[str, Tensor]:
        return super().encode([bounded(image, LONGEST) for image in images] if self.pil.do_pad else images)

    def tokens(self, image: Image.Image) -> int:
        return self.count

    def seen(self, image: Image.Image) -> Image.Image:
        return restore(self.encode([image])["pixel_values"][0], self.pil.image_mean, self.pil.image_std)


class TiledProcessor(PictureProcessor):
    """LLaVA-NeXT and OneVision: the whole picture as one square, and tiles of a larger copy that keeps its shape.

    ``pixel_values`` (M, T, 3, S, S), tiles filled up with zeros, and ``image_sizes`` (M, 2), height first. A tile has
    ``side`` x ``side`` tokens; ``most`` is the area, in tiles, beyond which OneVision shrinks the grid of tokens.
    """

    def __init__(
        self,
        pil: LlavaNextImageProcessorPil | LlavaOnevisionImageProcessorPil,
        tile: int,
        side: int,
        most: int | None = None,
    ) -> None:
        super().__init__(pil)
        self.tile, self.side, self.most = tile, side, most

    def encode(self, images: Sequence[Image.Image]) -> dict[str, Tensor]:
        inputs = super().encode(images)
        return {name: inputs[name] for name in ("pixel_values", "image_sizes")}

    def tokens(self, image: Image.Image) -> int:
        rows, columns = self.stitched(image)
        return self.side**2 + rows * (columns + 1)

    def stitched(self, image: Image.Image) -> tuple[int, int]:
        """Rows and columns of the tiles' tokens, put together and without those of the padding."""
        width, height = image.size
        best = select_best_resolution((height, width), self.pil.image_grid_pinpoints)
        grid = unpadded([self.side * pixels // self.tile for pixels in best], (height, width))
        return grid if self.most is None else shrunk(grid, self.most * self.side**2)

    def seen(self, image: Image.Image) -> Image.Image:
        return restore(self.encode([image])["pixel_values"][0, 0], self.pil.image_mean, self.pil.image_std)


class NativeProcessor(PictureProcessor):
    """Qwen2.5-VL: pictures keep their shape, ``pixel_values`` (P, D) and ``image_grid_thw`` (M, 3) in patches.

    ``jpeg_quality``: send every picture through a JPEG first, as lmms-eval's wrapper does (75).
    """

    marks_placeholders: ClassVar[bool] = True  # without, its positions silently become one-dimensional

    def __init__(self, pil: Qwen2VLImageProcessorPil, jpeg_quality: int | None = None) -> None:
        super().__init__(pil)
        self.jpeg_quality = jpeg_quality

    def encode(self, images: Sequence[Image.Image]) -> dict[str, Tensor]:
        if self.jpeg_quality is not None:
            images = [recompress(to_rgb(image), self.jpeg_quality) for image in images]
        return super().encode(images)

    def tokens(self, image: Image.Image) -> int:
        width, height = self.resized(image)
        return width * height // (self.pil.patch_size * self.pil.merge_size) ** 2

    def resized(self, image: Image.Image) -> Size:
        """The size to which a picture is brought, in whose pixels the model answers boxes.

        Raises:
            SampleError: one side is more than 200 times the other.
        """
        width, height = image.size
        limits = self.pil.size["shortest_edge"], self.pil.size["longest_edge"]
        try:
            high, wide = smart_resize(height, width, self.pil.patch_size * self.pil.merge_size, *limits)
        except ValueError as error:
            raise SampleError(f"a picture of {width} x {height} pixels cannot be used: {error}") from error
        return wide, high

    def seen(self, image: Image.Image) -> Image.Image:
        return to_rgb(image).resize(self.resized(image), self.pil.resample)


def bounded(image: Image.Image, longest: int) -> Image.Image:
    """The picture, its longer side shrunk to ``longest`` pixels if it has more."""
    scale = longest / max(image.size)
    if scale >= 1:
        return image
    return to_rgb(image).resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.BICUBIC)


def unpadded(grid: Sequence[int], size: Sequence[int]) -> tuple[int, int]:
    """Rows and columns that a picture of ``size`` (height, width), centred on a grid (rows, columns), covers."""
    rows, columns = grid
    height, width = size
    if width / height > columns / rows:
        return rows - (rows - int(round(height * (columns / width), 7))) // 2 * 2, columns
    return rows, columns - (columns - int(round(width * (rows / height), 7))) // 2 * 2


def shrunk(grid: tuple[int, int], most: int) -> tuple[int, int]:
    """A grid scaled down to ``most`` cells, if it has many more (LLaVA-OneVision's anyres_max)."""
    ratio = (grid[0] * grid[1] / most) ** 0.5
    return (int(grid[0] // ratio), int(grid[1] // ratio)) if ratio > 1.1 else grid


def recompress(image: Image.Image, quality: int) -> Image.Image:
    """An RGB picture after a round trip through JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def restore(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Image.Image:
    """Normalised pixel values (3, S, S) back to a picture."""
    pixels = pixels.float() * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]
    return Image.fromarray((pixels.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())
