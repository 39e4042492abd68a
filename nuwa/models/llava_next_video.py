"""LLaVA-NeXT-Video: LLaVA-NeXT for pictures; of videos the tower's patches are pooled 2 x 2, before the projector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from nuwa.models.crops import CropRecording
from nuwa.models.llava_next import ARRANGEMENTS, LlavaNext
from nuwa.models.pooled import FrameRecording, FramesOfVideos
from nuwa.models.random_configs import Sizes, SpecialTokens
from nuwa.models.video_processors import FrameProcessor
from nuwa.pruners.base import Tap
from nuwa.pruning.layout import Grid

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerFast

    from nuwa.models.decoder import GenerativeModel
    from nuwa.models.processors import PictureOptions, PictureProcessor


class LlavaNextVideo(LlavaNext):
    """`LlavaNextVideoForConditionalGeneration` with a CLIP vision tower.

    Raises:
        ValueError: frames are pooled by weights of their own.
    """

    model_type = "llava_next_video"
    architecture = "LlavaNextVideoForConditionalGeneration"
    special = SpecialTokens(("<pad>", "<s>", "</s>", "<unk>", "<image>", "<video>"))
    video_placeholder: ClassVar[str] = "<video>"
    texts = "LlavaNextVideoProcessor"

    def __init__(self, config: PreTrainedConfig, model: GenerativeModel | None = None) -> None:
        super().__init__(config, model)
        if config.spatial_pool_mode not in ("average", "max"):
            raise ValueError(
                f"{self.model_type} models need spatial_pool_mode 'average' or 'max', so that scores can be pooled as "
                f"features are, not {config.spatial_pool_mode!r}"
            )

    @classmethod
    def random_config(cls, tokenizer: PreTrainedTokenizerFast, sizes: Sizes) -> PreTrainedConfig:
        """As LLaVA-NeXT."""
        from transformers import LlavaNextVideoConfig

        return LlavaNextVideoConfig(
            **cls.random_parts(tokenizer, sizes),
            video_token_index=tokenizer.get_vocab()[cls.video_placeholder],
            image_grid_pinpoints=[[sizes.image_size * side for side in sides] for sides in ARRANGEMENTS],
        )

    @classmethod
    def video_processor(
        cls, config: PreTrainedConfig, pictures: PictureProcessor, options: PictureOptions
    ) -> FrameProcessor:
        layout = LlavaNextVideoFrames(config).layout
        return FrameProcessor(pictures, cls.video_placeholder, config.vision_config.image_size, layout, crop=True)

    def for_videos(self) -> LlavaNextVideoFrames:
        return LlavaNextVideoFrames(self.config, self._model)


@dataclass(eq=False, repr=False)
class PooledFirst(FrameRecording):
    """A recording of frames that are pooled before the projector: its features are those."""

    def features(self, image: int, rows: Tensor) -> Tensor:
        return CropRecording.rows(self, self.selected, image, rows)

    def view(self, tap: Tap, image: int, rows: Tensor) -> Tensor | None:
        if tap.kind != "reader_keys":
            return super().view(tap, image, rows)
        frames = rows // self.cells
        if bool((frames != frames[0]).any()):
            return None  # several frames, each with a CLS token of its own
        values = self.value(tap)[self.crops[image]][int(frames[0])]
        pooled = self.pool(values[None, 1:])[0]
        return torch.cat([values[:1], pooled[(rows % self.cells).to(pooled.device)]])


class LlavaNextVideoFrames(FramesOfVideos, LlavaNextVideo):
    """Its videos: every frame pooled to half as many rows and columns, no newlines."""

    recording = PooledFirst

    @property
    def pooled(self) -> Grid:
        return self.square[0] // self.config.spatial_pool_stride, self.square[1] // self.config.spatial_pool_stride

    def pool(self, frames: Tensor) -> Tensor:
        from transformers.models.llava_next_video.modeling_llava_next_video import LlavaNextVideoPooler

        pool: Any = LlavaNextVideoPooler(self.config)  # without weights
        return pool(frames)
