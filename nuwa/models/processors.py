"""Pictures as each family's vision tower takes them, and the text that stands for them in a prompt.

PIL only, no torchvision. Shape letters: M pictures, T tiles, S side of a square, P patches of all pictures, D values of
a patch.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from PIL import Image
from torch import Tensor

from nuwa.models.checkpoint import ModelError
from nuwa.samples import SampleError, to_rgb

if TYPE_CHECKING:
    from transformers import ProcessorMixin

Size = tuple[int, int]
"""(width, height) in pixels, as PIL counts."""
Source = Path | dict[str, Any]
"""Where a processor's settings come from: a checkpoint's folder, or the settings themselves."""
ImageFrame = Literal["auto", "pad", "crop", "folder"]
_LONGEST, _LONGEST_STRIP, _STRIP = 8192, 1024, 200
"""Longest side, in pixels, of a picture that is padded to a square, and of a strip, of which one side is more than 200
times the other; longer ones are shrunk before, or they would take gigabytes."""


@dataclass(frozen=True, kw_only=True)
class PictureOptions:
    """What ``conf/model`` says about pictures. ``image_frame`` is LLaVA-1.5's, the others are Qwen2.5-VL's.

    ``image_frame`` says how a picture becomes a square: ``pad`` it with the mean colour as LLaVA-1.5 was trained
    (``auto``), ``crop`` its centre as Hugging Face processors do, or as the ``folder`` says. ``min_pixels`` and
    ``max_pixels`` bound the area to which a picture is resized (null: as the folder says; InternVL has the second, too,
    for all tiles together), ``video_min_pixels`` and ``video_max_pixels`` that of a frame (null: 128 and 768 tokens'
    worth, the defaults of transformers' video processor); ``jpeg_quality`` sends a picture through a JPEG.
    ``text_after_video``: position ids of the text behind a video. ``transformers`` ignores how long the video is, so
    that they overlap with its time; the ``original`` goes on behind its largest id. ``video_pool`` and
    ``video_newline`` are OneVision's: how its frames are pooled, and where newlines stand (`nuwa.models.llava_video`).
    """

    image_frame: ImageFrame = "auto"
    min_pixels: int | None = None
    max_pixels: int | None = None
    video_min_pixels: int | None = None
    video_max_pixels: int | None = None
    jpeg_quality: int | None = None
    text_after_video: Literal["transformers", "original"] = "transformers"
    video_pool: Literal["bilinear", "average"] = "bilinear"
    video_newline: Literal["one", "frame", "grid", "none"] = "one"

    def require_only(self, family: str, *own: str) -> None:
        """Refuse options that a family does not have.

        Raises:
            ModelError: one is set; the message names it.
        """
        for option in fields(PictureOptions):
            value = getattr(self, option.name)
            if option.name not in own and value != option.default:
                raise ModelError(f"model.{option.name}={value}: {family} models have no such option")


def make_pil(kind: Any, source: Source, settings: dict[str, Any]) -> Any:
    """transformers' PIL processor ``kind`` with the means and deviations of ``source``, and with other settings."""
    if isinstance(source, dict):
        return kind(**source | settings)
    return kind.from_pretrained(source, local_files_only=True, **settings)


def text_processor(kind: type[ProcessorMixin], pil: Any, placeholder: str, **settings: Any) -> ProcessorMixin:
    """As much of transformers' processor ``kind`` as writes the text for a picture (``replace_image_token``).

    Its constructor would want a video processor, which needs torchvision. ``settings`` are attributes that it reads.
    """
    processor = kind.__new__(kind)
    vars(processor).update(image_processor=pil, image_token=placeholder, **settings)
    return processor


class PictureProcessor:
    """Turns pictures into the image inputs of one family.

    ``marks_placeholders``: the input, 1 on placeholders of pictures and 2 on those of videos, by which the model wants
    to know where they are.
    ``counts``: what of `encode` is said to `texts`, and not to the model.

    Args:
        pil: transformers' processor of pictures.
        texts: what writes the text for a picture; see `text_processor`.
    """

    marks_placeholders: ClassVar[str | None] = None
    counts: ClassVar[tuple[str, ...]] = ()

    def __init__(self, pil: Any, texts: ProcessorMixin) -> None:
        self.pil, self.text_writer = pil, texts
        deviations = pil.image_std if isinstance(pil.image_std, Sequence) else [pil.image_std]
        if pil.do_normalize and not all(0 < float(one) < math.inf for one in deviations):
            raise ModelError(
                f"model: image_std={pil.image_std} of the preprocessor's config must be above 0 and finite"
            )

    def check(self, image: Image.Image) -> None:
        """Refuse a picture that the tower cannot take.

        Raises:
            SampleError: it has no pixels, or an impossible shape.
        """
        if 0 in image.size:
            raise SampleError("a picture has no pixels")

    def encode(self, images: Sequence[Image.Image]) -> dict[str, Tensor]:
        """Inputs of ``get_image_features`` for M pictures of any mode."""
        return dict(self.pil([to_rgb(image) for image in images], return_tensors="pt"))

    def texts(self, inputs: Mapping[str, Tensor], count: int) -> list[str]:
        """What stands in a prompt for each of ``count`` pictures, given their `encode`."""
        given = {**inputs, "batch_num_images": [1] * count}
        return [self.text_writer.replace_image_token(given, number) for number in range(count)]


class SquareProcessor(PictureProcessor):
    """LLaVA-1.5: every picture becomes one square, ``pixel_values`` (M, 3, S, S)."""

    def encode(self, images: Sequence[Image.Image]) -> dict[str, Tensor]:
        return super().encode([bounded(image, _longest(image)) for image in images] if self.pil.do_pad else images)


class TiledProcessor(PictureProcessor):
    """LLaVA-NeXT and OneVision: the whole picture as one square, and tiles of a larger copy that keeps its shape.

    ``pixel_values`` (M, T, 3, S, S), tiles filled up with zeros, and ``image_sizes`` (M, 2), height first. A tile is a
    square of ``tile`` pixels and has ``side`` x ``side`` tokens.
    """

    def __init__(self, pil: Any, texts: ProcessorMixin, tile: int, side: int) -> None:
        super().__init__(pil, texts)
        self.tile, self.side = tile, side

    def encode(self, images: Sequence[Image.Image]) -> dict[str, Tensor]:
        inputs = super().encode(images)
        return {name: inputs[name] for name in ("pixel_values", "image_sizes")}


class NativeProcessor(PictureProcessor):
    """Qwen2.5-VL: pictures keep their shape, ``pixel_values`` (P, D) and ``image_grid_thw`` (M, 3) in patches.

    ``jpeg_quality``: send every picture through a JPEG first, as lmms-eval's wrapper does (75).
    """

    marks_placeholders = "mm_token_type_ids"  # without, its positions silently become one-dimensional

    def __init__(self, pil: Any, texts: ProcessorMixin, jpeg_quality: int | None = None) -> None:
        super().__init__(pil, texts)
        self.jpeg_quality = jpeg_quality

    def check(self, image: Image.Image) -> None:
        super().check(image)
        self.resized(image)

    def encode(self, images: Sequence[Image.Image]) -> dict[str, Tensor]:
        if self.jpeg_quality is not None:
            images = [recompress(to_rgb(image), self.jpeg_quality) for image in images]
        return super().encode(images)

    def resized(self, image: Image.Image) -> Size:
        """The size to which a picture is brought, in whose pixels the model answers boxes.

        Raises:
            SampleError: one side is more than 200 times the other.
        """
        limits = self.pil.size["shortest_edge"], self.pil.size["longest_edge"]
        return smart_size(image, self.pil.patch_size * self.pil.merge_size, limits)


def smart_size(image: Image.Image, factor: int, limits: tuple[int, int]) -> Size:
    """The size nearest to a picture's whose sides are multiples of ``factor``, and whose area is between ``limits``.

    Raises:
        SampleError: one side is more than 200 times the other.
    """
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    width, height = image.size
    try:
        high, wide = smart_resize(height, width, factor, *limits)
    except ValueError as error:
        raise SampleError(f"a picture of {width} x {height} pixels cannot be used: {error}") from error
    return wide, high


def _longest(image: Image.Image) -> int:
    return _LONGEST_STRIP if max(image.size) > _STRIP * min(image.size) else _LONGEST


def bounded(image: Image.Image, longest: int) -> Image.Image:
    """The picture, its longer side shrunk to ``longest`` pixels if it has more."""
    scale = longest / max(image.size)
    if scale >= 1:
        return image
    width, height = (max(1, round(side * scale)) for side in image.size)
    return to_rgb(image).resize((width, height), Image.Resampling.BICUBIC)


def recompress(image: Image.Image, quality: int) -> Image.Image:
    """An RGB picture after a round trip through JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")
