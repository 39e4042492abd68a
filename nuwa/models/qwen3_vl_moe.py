"""Qwen3-VL with experts: as Qwen3-VL, but each token goes through a few of many feed-forward blocks."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from nuwa.models.qwen3_vl import Qwen3VL
from nuwa.models.random_configs import Sizes
from nuwa.pruning.flops import ModelShape

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerFast

    from nuwa.models.decoder import GenerativeModel


class Qwen3VLMoe(Qwen3VL):
    """`Qwen3VLMoeForConditionalGeneration`.

    Raises:
        ValueError: as `Qwen3VL`, and for a config some of whose layers have no experts.
    """

    model_type = "qwen3_vl_moe"
    architecture = "Qwen3VLMoeForConditionalGeneration"

    def __init__(self, config: PreTrainedConfig, model: GenerativeModel | None = None) -> None:
        super().__init__(config, model)
        text = config.text_config
        if text.mlp_only_layers or text.decoder_sparse_step != 1:
            raise ValueError(
                f"{self.model_type} models need experts in every layer (mlp_only_layers, decoder_sparse_step)"
            )

    @classmethod
    def random_config(cls, tokenizer: PreTrainedTokenizerFast, sizes: Sizes) -> PreTrainedConfig:
        """Eight experts, two of them for a token, each as wide as the feed-forward block would be."""
        from transformers import Qwen3VLMoeConfig

        parts = cls.random_parts(tokenizer, sizes)
        experts = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": sizes.intermediate_size}
        return Qwen3VLMoeConfig(**parts | {"text_config": parts["text_config"] | experts})

    @property
    def shape(self) -> ModelShape:
        """Its feed-forward width is that of the experts that a token goes through."""
        text = self.config.text_config
        return replace(super().shape, intermediate=text.num_experts_per_tok * text.moe_intermediate_size)
