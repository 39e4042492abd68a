"""Which architectures can be loaded, and how each takes its pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from transformers import (
    LlavaForConditionalGeneration,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessorPil,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessorPil,
    PreTrainedConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
)
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from nuwa.models.checkpoint import ModelError
from nuwa.models.processors import NativeProcessor, PictureProcessor, SquareProcessor, TiledProcessor

ImageFrame = Literal["auto", "pad", "crop", "folder"]


@dataclass(frozen=True)
class PictureOptions:
    """What ``conf/model`` says about pictures. ``frame`` is LLaVA-1.5's, the others are Qwen2.5-VL's.

    ``frame`` says how a picture becomes a square: ``pad`` it with the mean colour as LLaVA-1.5 was trained (``auto``),
    ``crop`` its centre as Hugging Face processors do, or as the ``folder`` says. ``min_pixels`` and ``max_pixels``
    bound the area to which a picture is resized (null: as the folder says); ``jpeg_quality`` sends it through a JPEG.
    """

    frame: ImageFrame = "auto"
    min_pixels: int | None = None
    max_pixels: int | None = None
    jpeg_quality: int | None = None

    def require_only(self, family: str, *own: str) -> None:
        """Refuse options that a family does not have."""
        keys = {"frame": "image_frame"}
        for option, unset in vars(PictureOptions()).items():
            value = getattr(self, option)
            if option not in own and value != unset:
                raise ModelError(f"model.{keys.get(option, option)}={value}: {family} models have no such option")


Source = Path | dict[str, Any]
"""Where a processor's settings come from: a checkpoint's folder, or the settings themselves."""


@dataclass(frozen=True)
class Family:
    """An architecture: its transformers class, its placeholder token, and how its picture processor is made."""

    architecture: type
    placeholder: str
    processor: Callable[[Source, PreTrainedConfig, PictureOptions], PictureProcessor]


def square(source: Source, config: PreTrainedConfig, options: PictureOptions) -> SquareProcessor:
    """LLaVA-1.5's, for a tower of one size."""
    options.require_only("llava", "frame")
    vision = config.vision_config
    size = vision.image_size
    settings: dict[str, Any] = {}
    if options.frame != "folder":
        shape = {"do_resize": True, "size": {"shortest_edge": size}, "crop_size": {"height": size, "width": size}}
        settings = {"do_pad": options.frame != "crop", "do_center_crop": True, **shape}
    count = (size // vision.patch_size) ** 2 + (config.vision_feature_select_strategy == "full")
    return SquareProcessor(_make(LlavaImageProcessorPil, source, settings), count)


def tiles(source: Source, config: PreTrainedConfig, options: PictureOptions) -> TiledProcessor:
    """LLaVA-NeXT's, and OneVision's, which shrinks large grids of tokens (``anyres_max_9``)."""
    options.require_only(config.model_type)
    vision = config.vision_config
    ratio = getattr(config, "vision_aspect_ratio", None)
    size = {"height": vision.image_size, "width": vision.image_size}
    settings = {"image_grid_pinpoints": config.image_grid_pinpoints}
    if ratio is None:
        kind = LlavaNextImageProcessorPil
        settings |= {"size": {"shortest_edge": vision.image_size}, "crop_size": size}
    else:
        kind = LlavaOnevisionImageProcessorPil
        settings |= {"size": size}
    most = None if ratio is None else int(ratio.removeprefix("anyres_max_"))
    return TiledProcessor(
        _make(kind, source, settings), vision.image_size, vision.image_size // vision.patch_size, most
    )


def native(source: Source, config: PreTrainedConfig, options: PictureOptions) -> NativeProcessor:
    """Qwen2.5-VL's."""
    options.require_only("qwen2_5_vl", "min_pixels", "max_pixels", "jpeg_quality")
    if options.jpeg_quality is not None and not 1 <= options.jpeg_quality <= 100:
        raise ModelError(f"model.jpeg_quality={options.jpeg_quality} must be in 1 to 100")
    vision = config.vision_config
    pil = _make(
        Qwen2VLImageProcessorPil,
        source,
        {
            "patch_size": vision.patch_size,
            "temporal_patch_size": vision.temporal_patch_size,
            "merge_size": vision.spatial_merge_size,
        },
    )
    limits = {"shortest_edge": options.min_pixels, "longest_edge": options.max_pixels}
    pil.size = {**dict(pil.size), **{edge: pixels for edge, pixels in limits.items() if pixels is not None}}
    least, most = pil.size["shortest_edge"], pil.size["longest_edge"]
    if not 0 < least <= most:
        raise ModelError(f"model.min_pixels={least} must be positive and at most model.max_pixels={most}")
    return NativeProcessor(pil, options.jpeg_quality)


FAMILIES = {
    "llava": Family(LlavaForConditionalGeneration, "<image>", square),
    "llava_next": Family(LlavaNextForConditionalGeneration, "<image>", tiles),
    "llava_onevision": Family(LlavaOnevisionForConditionalGeneration, "<image>", tiles),
    "qwen2_5_vl": Family(Qwen2_5_VLForConditionalGeneration, "<|image_pad|>", native),
}


def _make(kind: type, source: Source, settings: dict[str, Any]) -> Any:
    """A PIL processor with the means and deviations of its source, and the settings that the model needs."""
    if isinstance(source, dict):
        return kind(**source | settings)
    return kind.from_pretrained(source, local_files_only=True, **settings)
