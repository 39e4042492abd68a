"""InternVL3 and InternVL3.5 (and 2.5, in Hugging Face's format): tiles of 448 pixels, a CLS token, 1-D positions.

Every tile is seen by itself, with a CLS token of its own; four patches make a token (`nuwa.models.shuffled`).
Checkpoints of OpenGVLab whose names lack ``-hf`` hold code of their own and are not loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nuwa.models.checkpoint import ModelError
from nuwa.models.processors import PictureOptions, PictureProcessor, Source, make_pil, text_processor
from nuwa.models.random_configs import ROPE, Sizes, SpecialTokens
from nuwa.models.shuffled import ShuffledFamily, ShuffledRecording
from nuwa.models.tiles import check_sizes, picture_grids, placeholder_runs
from nuwa.models.towers import LayerRun
from nuwa.pruners.base import Tower
from nuwa.pruning.layout import Grid
from nuwa.pruning.scores import Heads, split_heads

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerFast

    from nuwa.models.decoder import GenerativeModel


class InternVLRecording(ShuffledRecording):
    """InternViT's layers, some of which norm queries and keys, all heads at once."""

    def project(self, run: LayerRun) -> Heads:
        attention: Any = run.layer.get_submodule("attention")
        normed = run.layer.get_submodule("layernorm_before")(run.hidden)
        queries, keys = attention.q_norm(attention.q_proj(normed)), attention.k_norm(attention.k_proj(normed))
        return Heads(split_heads(queries, attention.head_dim), split_heads(keys, attention.head_dim), attention.scale)


class InternVLPictures(PictureProcessor):
    """``pixel_values`` (T, 3, S, S): the tiles of all pictures; ``num_patches`` (M,): how many of each."""

    counts = ("num_patches",)

    def texts(self, inputs: Mapping[str, Any], count: int) -> list[str]:
        return super().texts({**inputs, "num_patches": inputs["num_patches"].tolist()}, count)


class InternVL(ShuffledFamily):
    """`InternVLForConditionalGeneration`, for pictures; frames of a video count as pictures of one tile.

    Raises:
        ValueError: an LLM that is not supported, or features of several layers or with the CLS token.
    """

    model_type = "internvl"
    architecture = "InternVLForConditionalGeneration"
    placeholder = "<IMG_CONTEXT>"
    projector_at, tower_layers_at = "multi_modal_projector", "vision_tower.encoder.layer"
    special = SpecialTokens.chat("<img>", "</img>", "<IMG_CONTEXT>")
    half = torch.bfloat16

    def __init__(self, config: PreTrainedConfig, model: GenerativeModel | None = None) -> None:
        super().__init__(config, model)
        layer = config.vision_feature_layer
        if layer != -1 or config.vision_feature_select_strategy != "default":
            raise ValueError(
                "internvl models need vision_feature_layer=-1 and vision_feature_select_strategy='default'; this one "
                f"has {layer} and {config.vision_feature_select_strategy!r}"
            )

    @classmethod
    def random_config(cls, tokenizer: PreTrainedTokenizerFast, sizes: Sizes) -> PreTrainedConfig:
        """InternViT, tokens of 2 x 2 patches, Qwen2."""
        from transformers import InternVLConfig, Qwen2Config

        if sizes.image_size % (2 * sizes.patch):
            raise ModelError(f"model.image_size={sizes.image_size} must be a multiple of {2 * sizes.patch}")
        square = {name: [sizes.vision[name]] * 2 for name in ("image_size", "patch_size")}
        return InternVLConfig(
            vision_config=sizes.vision | square | {"attention_bias": True},
            text_config=Qwen2Config(**sizes.text(tokenizer), rope_parameters=ROPE).to_dict(),
            image_token_id=tokenizer.get_vocab()[cls.placeholder],
            image_seq_length=(sizes.image_size // sizes.patch // 2) ** 2,
            tie_word_embeddings=False,
        )

    @classmethod
    def pictures(cls, config: PreTrainedConfig, source: Source, options: PictureOptions) -> InternVLPictures:
        from transformers import InternVLProcessor
        from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

        options.require_only(cls.model_type, "max_pixels")
        height, width = config.vision_config.image_size
        settings: dict[str, Any] = {"crop_to_patches": True, "size": {"height": height, "width": width}}
        if options.max_pixels is not None:
            if options.max_pixels < height * width:
                raise ModelError(f"model.max_pixels={options.max_pixels} must be at least a tile's {height * width}")
            settings |= {"min_patches": 1, "max_patches": options.max_pixels // (height * width)}
        pil = make_pil(GotOcr2ImageProcessorPil, source, settings)
        names = {"start_image_token": "<img>", "end_image_token": "</img>", "image_seq_length": config.image_seq_length}
        return InternVLPictures(pil, text_processor(InternVLProcessor, pil, cls.placeholder, **names))

    @property
    def factor(self) -> int:
        return round(1 / self.config.downsample_ratio)

    @property
    def square(self) -> Grid:
        vision = self.config.vision_config
        return vision.image_size[0] // vision.patch_size[0], vision.image_size[1] // vision.patch_size[1]

    @property
    def tower(self) -> Tower:
        vision = self.config.vision_config
        sizes = {name: getattr(vision, name) for name in ("hidden_size", "num_hidden_layers")}
        sizes |= {name: getattr(vision, name)[0] for name in ("patch_size", "image_size")}
        return Tower(vision.model_type, sizes, cls=True)

    def find_grids(self, arguments: Mapping[str, Any]) -> list[Grid]:
        return picture_grids(arguments["pixel_values"], self.config.vision_config.patch_size[0])

    def split(self, features: Tensor, arguments: Mapping[str, Any]) -> list[Tensor]:
        """Features (T, N, L) of tiles as those of pictures."""
        return [image.flatten(0, 1) for image in features.split(self.counts(arguments))]

    def join(self, images: Sequence[Tensor], features: Tensor) -> Tensor:
        return torch.cat(list(images)).unflatten(0, (-1, features.shape[1]))

    def check_prompt(self, input_ids: Tensor, sizes: Sequence[int]) -> None:
        rows, starts, ends = placeholder_runs(input_ids == self.placeholder_id)
        check_sizes(rows, ends - starts, len(input_ids), sizes)

    def new_recording(self, arguments: Mapping[str, Any]) -> InternVLRecording:
        parts = self.tower_layers, self.projector, self.feature_layer, self.counts(arguments)
        return InternVLRecording(*parts, self.factor, cls=True)
