"""LLaVA-1.5: a CLIP tower with a CLS token, one square grid per image, 1-D positions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.nn import functional

from nuwa.models.base import Family
from nuwa.models.checkpoint import ModelError
from nuwa.models.crops import CropRecording
from nuwa.models.processors import PictureOptions, PictureProcessor, Source, SquareProcessor, make_pil, text_processor
from nuwa.models.random_configs import Sizes, SpecialTokens
from nuwa.pruners.base import Tower
from nuwa.pruning.layout import Grid, ImageLayout

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerFast

    from nuwa.models.decoder import GenerativeModel


class Llava(Family):
    """`LlavaForConditionalGeneration` with a CLIP vision tower.

    Raises:
        ValueError: a vision tower or feature selection that has no single grid with a CLS token.
    """

    model_type = "llava"
    architecture = "LlavaForConditionalGeneration"
    projector_at, tower_layers_at = "multi_modal_projector", "vision_tower.encoder.layers"
    special = SpecialTokens(("<pad>", "<s>", "</s>", "<unk>", "<image>"))
    selection = "default"
    """The ``vision_feature_select_strategy`` of the family."""

    def __init__(self, config: PreTrainedConfig, model: GenerativeModel | None = None) -> None:
        super().__init__(config, model)
        if config.vision_feature_select_strategy != self.selection or not isinstance(config.vision_feature_layer, int):
            raise ValueError(
                f"{self.model_type} models need one vision_feature_layer and vision_feature_select_strategy="
                f"{self.selection!r}; this one has {config.vision_feature_layer} and "
                f"{config.vision_feature_select_strategy!r}"
            )

    @classmethod
    def random_config(cls, tokenizer: PreTrainedTokenizerFast, sizes: Sizes) -> PreTrainedConfig:
        """CLIP with a CLS token, penultimate layer, two-layer projector, Llama."""
        from transformers import LlavaConfig

        return LlavaConfig(**cls.random_parts(tokenizer, sizes))

    @classmethod
    def random_parts(cls, tokenizer: PreTrainedTokenizerFast, sizes: Sizes) -> dict[str, Any]:
        """What the configs of LLaVA-1.5 and LLaVA-NeXT share."""
        from transformers import CLIPVisionConfig, LlamaConfig

        if sizes.image_size % sizes.patch:
            raise ModelError(f"model.image_size={sizes.image_size} must be a multiple of {sizes.patch}")
        text = LlamaConfig(**sizes.text(tokenizer), rms_norm_eps=1e-5)
        return {
            "vision_config": CLIPVisionConfig(**sizes.vision, projection_dim=sizes.vision_hidden_size).to_dict(),
            "text_config": text.to_dict(),
            "image_token_index": tokenizer.get_vocab()[cls.placeholder],
            "image_seq_length": (sizes.image_size // sizes.patch) ** 2,
        }

    @classmethod
    def pictures(cls, config: PreTrainedConfig, source: Source, options: PictureOptions) -> PictureProcessor:
        from transformers import LlavaProcessor
        from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

        options.require_only(cls.model_type, "image_frame")
        size, settings = config.vision_config.image_size, {}
        if options.image_frame != "folder":
            shape = {"do_resize": True, "size": {"shortest_edge": size}, "crop_size": {"height": size, "width": size}}
            settings = {"do_pad": options.image_frame != "crop", "do_center_crop": True, **shape}
        pil = make_pil(LlavaImageProcessorPil, source, settings)
        return SquareProcessor(pil, text_processor(LlavaProcessor, pil, cls.placeholder, **cls.text_settings(config)))

    @classmethod
    def text_settings(cls, config: PreTrainedConfig) -> dict[str, Any]:
        """What the processors of LLaVA-1.5 and LLaVA-NeXT count tokens with."""
        return {
            "patch_size": config.vision_config.patch_size,
            "num_additional_image_tokens": 1,
            "vision_feature_select_strategy": config.vision_feature_select_strategy,
        }

    @property
    def square(self) -> Grid:
        """The patch grid of one crop."""
        side = self.config.vision_config.image_size // self.config.vision_config.patch_size
        return side, side

    @property
    def grid(self) -> Grid | None:
        return self.square

    @property
    def tower(self) -> Tower:
        return replace(super().tower, cls=True, grid=self.grid)

    @property
    def vision_width(self) -> int:
        return self.config.vision_config.hidden_size

    @property
    def feature_layer(self) -> int:
        """The layer of the vision tower whose output are the features."""
        at = self.config.vision_feature_layer
        return self.config.vision_config.num_hidden_layers + at if at < 0 else at - 1

    def layouts(self, images: Sequence[Tensor], arguments: Mapping[str, Any]) -> list[ImageLayout]:
        return [ImageLayout.single(self.square) for _ in images]

    def crops(self, arguments: Mapping[str, Any]) -> list[int]:
        """How many crops the vision tower sees of each image."""
        return [1] * len(arguments["pixel_values"])

    def project(self, features: Tensor) -> Tensor:
        return self.projector(features)

    def new_recording(self, arguments: Mapping[str, Any]) -> CropRecording:
        parts = self.tower_layers, self.projector, self.feature_layer, self.crops(arguments)
        return CropRecording(*parts, cls=self.tower.cls)

    def encode_smaller(self, encode: Callable[..., Any], arguments: Mapping[str, Any], grid: Grid) -> Any:
        arguments = dict(arguments)
        pixels, extra = arguments.pop("pixel_values"), arguments.pop("kwargs", {})
        size = [side * self.config.vision_config.patch_size for side in grid]
        small = functional.interpolate(pixels.float(), size, mode="bicubic", antialias=True).to(pixels.dtype)
        output = encode(pixel_values=small, **arguments, **extra, interpolate_pos_encoding=True)
        whole = self.square[0] * self.square[1]
        output.pooler_output = [image.new_zeros(whole, image.shape[-1]) for image in output.pooler_output]
        return output
