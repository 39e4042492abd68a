"""LLaVA-OneVision: a SigLIP tower without CLS token, tiles as LLaVA-NeXT's, videos of pooled frames. Experimental.

Received attention stands in for a CLS token's. Where the tiles of an image hold too many tokens (``anyres_max_9``), the
model interpolates their projected features on a coarser grid, so that a token has no patch of its own. Features are
therefore taken after the projector, and whatever is read off the tower is interpolated like them; no method was
published with that, which a warning says where it happens. Every frame of a video is pooled in that way (as all authors
of methods for videos do with scores), and one newline closes the video.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from nuwa.models.crops import CropRecording
from nuwa.models.llava_next import LlavaNext
from nuwa.models.llava_video import frame_grid, lay_out_frames, newline_of, pool_frames
from nuwa.models.pooled import FramesOfVideos
from nuwa.models.processors import PictureOptions, PictureProcessor, Source, TiledProcessor, make_pil, text_processor
from nuwa.models.random_configs import ROPE, Sizes, SpecialTokens
from nuwa.models.video_processors import FrameProcessor
from nuwa.pruners.base import Tower
from nuwa.pruning.layout import Grid, ImageLayout

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerFast

    from nuwa.models.decoder import GenerativeModel

UNLIMITED = "anyres_max_1000000"
"""A limit on tokens under which nothing is interpolated."""


@dataclass(eq=False, repr=False)
class PackedRecording(CropRecording):
    """Rows are placeholders: ``pack(values, image)`` puts (crops, N, D) in their order, (n_tokens, D)."""

    pack: Callable[[Tensor, int], Tensor]

    def features(self, image: int, rows: Tensor) -> Tensor:
        return self.rows(self._features["projected"], image, rows)

    def rows(self, values: Tensor, image: int, rows: Tensor) -> Tensor:
        mine = values[self.crops[image]]
        packed = self.pack(mine.flatten(2) if mine.dim() > 2 else mine[..., None], image)
        return packed[rows.to(values.device)].view(len(rows), *values.shape[2:])

    def expand_to(self, owners: Sequence[int]) -> None:
        super().expand_to(owners)
        pack = self.pack
        self.pack = lambda values, image: pack(values, owners[image])

    def _leave_reader(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        super()._leave_reader(module, inputs, output)
        self._features["projected"] = output


class LlavaOnevision(LlavaNext):
    """`LlavaOnevisionForConditionalGeneration` with a SigLIP vision tower; pictures, which are tiled, and videos."""

    model_type = "llava_onevision"
    architecture = "LlavaOnevisionForConditionalGeneration"
    special = SpecialTokens.chat("<image>", "<video>")
    video_placeholder: ClassVar[str] = "<video>"
    selection = "full"

    @classmethod
    def random_config(cls, tokenizer: PreTrainedTokenizerFast, sizes: Sizes) -> PreTrainedConfig:
        """SigLIP without a CLS token, last layer, up to 6 x 6 tiles, Qwen2."""
        from transformers import LlavaOnevisionConfig, Qwen2Config, SiglipVisionConfig

        sides = [sizes.image_size * count for count in range(1, 7)]
        return LlavaOnevisionConfig(
            vision_config=SiglipVisionConfig(**sizes.vision, vision_use_head=False).to_dict(),
            text_config=Qwen2Config(**sizes.text(tokenizer), rope_parameters=ROPE).to_dict(),
            image_token_index=tokenizer.get_vocab()["<image>"],
            video_token_index=tokenizer.get_vocab()["<video>"],
            image_grid_pinpoints=[[height, width] for height in sides for width in sides],
        )

    @classmethod
    def pictures(cls, config: PreTrainedConfig, source: Source, options: PictureOptions) -> PictureProcessor:
        from transformers import LlavaOnevisionImageProcessorPil, LlavaOnevisionProcessor

        options.require_only(cls.model_type, "video_pool", "video_newline")
        size = config.vision_config.image_size
        side = size // config.vision_config.patch_size
        settings = {"size": {"height": size, "width": size}, "image_grid_pinpoints": config.image_grid_pinpoints}
        pil = make_pil(LlavaOnevisionImageProcessorPil, source, settings)
        texts = text_processor(
            LlavaOnevisionProcessor,
            pil,
            cls.placeholder,
            num_image_tokens=side**2,
            vision_feature_select_strategy=cls.selection,
            vision_aspect_ratio=config.vision_aspect_ratio,
        )
        return TiledProcessor(pil, texts, size, side)

    @classmethod
    def adapt(cls, model: GenerativeModel, options: PictureOptions) -> None:
        lay_out_frames(model, options.video_pool, options.video_newline)

    @classmethod
    def video_processor(
        cls, config: PreTrainedConfig, pictures: PictureProcessor, options: PictureOptions
    ) -> FrameProcessor:
        layout = LlavaOnevisionVideos(config).layout
        return FrameProcessor(pictures, cls.video_placeholder, config.vision_config.image_size, layout)

    @property
    def tower(self) -> Tower:
        return replace(super().tower, cls=False)

    def for_videos(self) -> LlavaOnevisionVideos:
        return LlavaOnevisionVideos(self.config, self._model)

    def crop_of(self, source: Tensor) -> None:
        """Rows are placeholders, and features may be interpolated from patches of several crops."""

    def crops(self, arguments: Mapping[str, Any]) -> list[int]:
        counts = arguments.get("batch_num_images")
        if counts is not None and any(int(count) > 1 for count in counts):
            raise ValueError("llava_onevision: several images in a prompt are not supported with pruning")
        return super().crops(arguments)

    def pack(self, values: Tensor, arguments: Mapping[str, Any], image: int, limit: str | None = None) -> Tensor:
        """Values (crops, N, D) of an image in prompt order: (n_tokens, D), -1 for newlines."""
        from transformers import LlavaOnevisionModel

        limit = limit or arguments.get("vision_aspect_ratio") or self.config.vision_aspect_ratio
        newline = values.new_full((values.shape[-1],), -1)
        pack: Any = LlavaOnevisionModel.pack_image_features  # reads nothing of the model but its config
        return pack(self, [values], [arguments["image_sizes"][image]], newline, limit)[0][0]

    def pack_rows(self, arguments: Mapping[str, Any], image: int, crops: int) -> Tensor:
        blank = torch.zeros(crops, self.square[0] * self.square[1], 1)
        packed = self.pack(blank, arguments, image)[:, 0]
        if len(packed) < len(self.pack(blank, arguments, image, UNLIMITED)):
            warnings.warn(
                "llava_onevision interpolates the tiles of large images: scores are interpolated like features, which "
                "is experimental",
                stacklevel=2,
            )
        return torch.arange(len(packed)).masked_fill(packed < 0, -1)

    def project(self, features: Tensor) -> Tensor:
        return features

    def new_recording(self, arguments: Mapping[str, Any]) -> CropRecording:
        parts = self.tower_layers, self.projector, self.feature_layer, self.crops(arguments)
        return PackedRecording(*parts, lambda values, image: self.pack(values, arguments, image))


class LlavaOnevisionVideos(FramesOfVideos, LlavaOnevision):
    """Its videos: every frame pooled to half as many rows and columns, and newlines where the config wants them."""

    @property
    def pooled(self) -> Grid:
        return frame_grid(self.config)

    def pool(self, frames: Tensor) -> Tensor:
        return pool_frames(self.config, frames)

    def layout(self, frames: int) -> ImageLayout:
        return ImageLayout.filmed(self.pooled, frames, newline_of(self.config))
