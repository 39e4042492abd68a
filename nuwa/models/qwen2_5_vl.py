"""Qwen2.5-VL: most layers of its tower see windows only; positions with three axes (M-RoPE), time in seconds.

The tower works on patches in window order, and the model puts tokens back into raster order afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nuwa.models.qwen import QwenRecording, QwenVL, vision_sizes
from nuwa.models.random_configs import Sizes
from nuwa.models.video_processors import PacedVideos
from nuwa.pruning.layout import window_order

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerFast


class WindowRecording(QwenRecording):
    """Of a tower most of whose layers see windows only."""

    windows = True


class Qwen2_5_VL(QwenVL):
    """`Qwen2_5_VLForConditionalGeneration`."""

    model_type = "qwen2_5_vl"
    architecture = "Qwen2_5_VLForConditionalGeneration"
    videos = PacedVideos

    @classmethod
    def random_config(cls, tokenizer: PreTrainedTokenizerFast, sizes: Sizes) -> PreTrainedConfig:
        """Windows of 4 x 4 tokens, every fourth part of the tower ends in full attention, M-RoPE."""
        from transformers import Qwen2_5_VLConfig

        period = max(sizes.vision_layers // 4, 2)
        vision = {
            **vision_sizes(sizes),
            "patch_size": sizes.patch,
            "window_size": 8 * sizes.patch,
            "fullatt_block_indexes": list(range(period - 1, sizes.vision_layers, period)),
        }
        return Qwen2_5_VLConfig(vision_config=vision, **cls.random_parts(tokenizer, sizes))

    def new_recording(self, arguments: Mapping[str, Any]) -> QwenRecording:
        """Taps read by default the last layer whose attention spans whole images."""
        vision, grids = self.config.vision_config, self.grids(arguments)
        order = window_order(grids, vision.window_size // vision.spatial_merge_size // vision.patch_size)
        whole, sizes = max(vision.fullatt_block_indexes), list(map(math.prod, grids))
        return WindowRecording(self.tower_layers, self.projector, whole, self.unit, sizes, order)
