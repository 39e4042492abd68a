"""Qwen2-VL: as Qwen2.5-VL, but every layer of its tower sees whole images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nuwa.models.qwen import QwenVL
from nuwa.models.random_configs import Sizes
from nuwa.pruners.base import Tower

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerFast


class Qwen2VL(QwenVL):
    """`Qwen2VLForConditionalGeneration`."""

    model_type = "qwen2_vl"
    architecture = "Qwen2VLForConditionalGeneration"

    @classmethod
    def random_config(cls, tokenizer: PreTrainedTokenizerFast, sizes: Sizes) -> PreTrainedConfig:
        """Its feed-forward layers have a whole multiple of the tower's width, 4 times as many by default."""
        from transformers import Qwen2VLConfig

        vision = {
            "depth": sizes.vision_layers,
            "embed_dim": sizes.vision_hidden_size,
            "mlp_ratio": sizes.vision["intermediate_size"] // sizes.vision_hidden_size,
            "num_heads": sizes.vision_heads,
            "hidden_size": sizes.hidden_size,
            "patch_size": sizes.patch,
        }
        return Qwen2VLConfig(vision_config=vision, **cls.random_parts(tokenizer, sizes))

    @property
    def tower(self) -> Tower:
        vision = self.config.vision_config
        names = ("depth", "patch_size", "spatial_merge_size")
        return Tower(vision.model_type, {"hidden_size": vision.embed_dim, **{n: getattr(vision, n) for n in names}})

    @property
    def vision_width(self) -> int:
        return self.config.vision_config.hidden_size
