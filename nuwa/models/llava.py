"""LLaVA-1.5: a CLIP tower with a CLS token, one square grid per image, 1-D positions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from nuwa.models.base import Adapter
from nuwa.models.clip import ClipRecording, record_clip
from nuwa.pruners.base import Tap, Tower
from nuwa.pruning.budget import ModelShape
from nuwa.pruning.layout import Grid, ImageLayout


class LlavaAdapter(Adapter):
    """`LlavaForConditionalGeneration` with a CLIP vision tower.

    Raises:
        ValueError: a vision tower or feature selection that has no single grid with a CLS token.
    """

    model_type = "llava"
    selection = "default"

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        config = model.config
        if config.vision_feature_select_strategy != self.selection or not isinstance(config.vision_feature_layer, int):
            raise ValueError(
                f"{self.model_type} models need one vision_feature_layer and vision_feature_select_strategy="
                f"{self.selection!r}; this one has {config.vision_feature_layer} and "
                f"{config.vision_feature_select_strategy!r}"
            )

    @property
    def square(self) -> Grid:
        """The patch grid of one crop."""
        side = self.model.config.vision_config.image_size // self.model.config.vision_config.patch_size
        return side, side

    @property
    def grid(self) -> Grid | None:
        return self.square

    @property
    def shape(self) -> ModelShape:
        text, vision = self.model.config.text_config, self.model.config.vision_config
        head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        return ModelShape(
            layers=text.num_hidden_layers,
            hidden=text.hidden_size,
            intermediate=text.intermediate_size,
            kv_heads=text.num_key_value_heads,
            head_dim=head_dim,
            vision_hidden=vision.hidden_size,
            image_tokens=None if self.grid is None else self.grid[0] * self.grid[1],
        )

    @property
    def tower(self) -> Tower:
        vision = self.model.config.vision_config
        names = ("hidden_size", "num_hidden_layers", "patch_size", "image_size")
        return Tower(vision.model_type, {name: getattr(vision, name) for name in names}, True, self.grid)

    def layouts(self, images: Sequence[Tensor], arguments: Mapping[str, Any]) -> list[ImageLayout]:
        return [ImageLayout.single(self.square) for _ in images]

    def encode_smaller(self, encode: Callable[..., Any], arguments: Mapping[str, Any], grid: Grid) -> Any:
        arguments = dict(arguments)
        pixels, extra = arguments.pop("pixel_values"), arguments.pop("kwargs", {})
        size = [side * self.model.config.vision_config.patch_size for side in grid]
        small = functional.interpolate(pixels.float(), size, mode="bicubic", antialias=True).to(pixels.dtype)
        output = encode(pixel_values=small, **arguments, **extra, interpolate_pos_encoding=True)
        whole = self.square[0] * self.square[1]
        output.pooler_output = [image.new_zeros(whole, image.shape[-1]) for image in output.pooler_output]
        return output

    def project(self, features: Tensor) -> Tensor:
        return self.multimodal.multi_modal_projector(features)

    def crops(self, arguments: Mapping[str, Any]) -> list[int]:
        """How many crops the vision tower sees of each image."""
        return [1] * len(arguments["pixel_values"])

    def record(self, taps: Sequence[Tap], arguments: Mapping[str, Any]) -> AbstractContextManager[ClipRecording]:
        return record_clip(
            self.new_recording(arguments),
            self.multimodal.vision_tower.encoder.layers,
            self.multimodal.multi_modal_projector,
            taps,
        )

    @property
    def tower_sizes(self) -> tuple[int, int, int]:
        """Head width and depth of the vision tower, and the layer whose output are the features."""
        vision, at = self.model.config.vision_config, self.model.config.vision_feature_layer
        depth = vision.num_hidden_layers
        return vision.hidden_size // vision.num_attention_heads, depth, depth + at if at < 0 else at - 1

    def new_recording(self, arguments: Mapping[str, Any]) -> ClipRecording:
        """An empty recording of the tower's sizes."""
        return ClipRecording(*self.tower_sizes, self.crops(arguments))
