"""LLaVA-Video's frames in LLaVA-OneVision's class, which has the same architecture and no options for them.

OneVision pools 27 x 27 patches to 14 x 14 by interpolation and closes a video with one newline. LLaVA-Video averages
2 x 2 patches to 13 x 13, with a newline behind every row of every frame (``grid``: 182 tokens a frame); FlashVID
(1d37422) runs it with one behind every ``frame`` (170).

Shape letters: M videos, F frames, N patches of a frame, D width.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from nuwa.pruning.layout import Grid, ImageLayout

if TYPE_CHECKING:
    from nuwa.models.decoder import GenerativeModel

_POOL, _NEWLINE = "video_pool", "video_newline"
"""Where a config of OneVision holds them."""


def lay_out_frames(model: GenerativeModel, pool: str, newline: str) -> None:
    """Let a model of OneVision's class pool frames and put newlines in another way than its own, here and in copies."""
    if (pool, newline) != ("bilinear", "one"):
        setattr(model.config, _POOL, pool)
        setattr(model.config, _NEWLINE, newline)
        model.get_submodule("model").__class__ = _model_class()


def newline_of(config: Any) -> str:
    """Where the newlines of a video stand, one of `nuwa.pruning.layout.NEWLINES`."""
    return getattr(config, _NEWLINE, "one")


def frame_grid(config: Any) -> Grid:
    """The grid of a frame's tokens."""
    side = config.vision_config.image_size // config.vision_config.patch_size
    half = side // 2 if getattr(config, _POOL, "bilinear") == "average" else math.ceil(side / 2)
    return half, half


def pool_frames(config: Any, frames: Tensor) -> Tensor:
    """Values of frames (F, N, D) pooled as the model pools features: (F, cells, D)."""
    side = config.vision_config.image_size // config.vision_config.patch_size
    square, (height, width) = frames.mT.unflatten(2, (side, side)), frame_grid(config)
    if getattr(config, _POOL, "bilinear") == "average":
        return avg_pool2d(square, 2).flatten(2).mT
    return torch.nn.functional.interpolate(square, (height, width), mode="bilinear").flatten(2).mT


def put_newlines(frames: Tensor, newline: Tensor, layout: ImageLayout) -> Tensor:
    """Features of a video's cells (F * cells, D) with the ``newline`` (D,) where its layout has them: (n_tokens, D).

    >>> layout = ImageLayout.filmed((1, 1), 2, "frame")
    >>> put_newlines(torch.tensor([[1.0], [2.0]]), torch.tensor([9.0]), layout).flatten()
    tensor([1., 9., 2., 9.])
    """
    return torch.cat([frames, newline.to(frames)[None]])[layout.source.to(frames.device)]  # the last row is number -1


@functools.cache
def _model_class() -> type:
    from transformers import LlavaOnevisionModel

    class LlavaVideoModel(LlavaOnevisionModel):
        """OneVision's model with frames as its config says."""

        def apply_pooling(self, image_features: Tensor) -> Tensor:
            return pool_frames(self.config, image_features)

        @functools.wraps(LlavaOnevisionModel.get_video_features)
        def get_video_features(self, pixel_values_videos: Tensor, *args: Any, **kwargs: Any) -> Any:
            output = super().get_video_features(pixel_values_videos, *args, **kwargs)
            frames = pixel_values_videos.shape[1]
            layout = ImageLayout.filmed(frame_grid(self.config), frames, newline_of(self.config))
            videos = [put_newlines(video[:-1], self.image_newline, layout) for video in output.pooler_output]
            output.pooler_output = torch.stack(videos)
            return output

    return LlavaVideoModel
