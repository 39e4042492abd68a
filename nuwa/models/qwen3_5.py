"""Qwen3.5: three of four layers of its LLM have linear attention, a state in place of keys and values.

What such a layer has read cannot be taken out of its state again, and need not be: a token that has left never enters.
There is no attention to read in it, so that stages which need some act at the next layer that has. Its tower is
Qwen3-VL's, without deepstack.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nuwa.models.checkpoint import ModelError
from nuwa.models.qwen import InterleavedQwenVL
from nuwa.models.random_configs import Sizes
from nuwa.pruning.flops import ModelShape, gated_delta_flops
from nuwa.pruning.scores import Heads
from nuwa.pruning.segments import Keys

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerFast

    from nuwa.models.decoder import GenerativeModel

FULL = "full_attention"


class Qwen3_5(InterleavedQwenVL):
    """`Qwen3_5ForConditionalGeneration`.

    Raises:
        ValueError: a config none of whose layers has full attention.
    """

    model_type = "qwen3_5"
    architecture = "Qwen3_5ForConditionalGeneration"

    def __init__(self, config: PreTrainedConfig, model: GenerativeModel | None = None) -> None:
        super().__init__(config, model)
        if FULL not in config.text_config.layer_types:
            raise ValueError(f"{self.model_type} models need a layer with full attention; this one has none")

    @classmethod
    def random_config(cls, tokenizer: PreTrainedTokenizerFast, sizes: Sizes) -> PreTrainedConfig:
        """Every fourth layer has full attention; the states are half a head wide, twice as many for values."""
        from transformers import Qwen3_5Config

        if sizes.layers < 4:
            raise ModelError(f"model.layers={sizes.layers} must be at least 4: every fourth layer has full attention")
        parts = cls.random_parts(tokenizer, sizes)
        width = sizes.hidden_size // sizes.heads // 2
        linear = {"linear_num_key_heads": sizes.heads, "linear_num_value_heads": 2 * sizes.heads}
        linear |= {"linear_key_head_dim": width, "linear_value_head_dim": width}
        return Qwen3_5Config(**parts | {"text_config": parts["text_config"] | linear})

    @classmethod
    def rope(cls, half: int) -> dict[str, Any]:
        """The first quarter of the channels is rotated, half of them where that would be too few for three axes."""
        share = 0.25 if half >= 16 else 0.5
        return super().rope(int(half * share)) | {"partial_rotary_factor": share}

    @property
    def shape(self) -> ModelShape:
        text = self.config.text_config
        keys = text.linear_num_key_heads, text.linear_key_head_dim
        values = text.linear_num_value_heads, text.linear_value_head_dim
        attention = tuple(layer for layer, kind in enumerate(text.layer_types) if kind == FULL)
        flops = gated_delta_flops(text.hidden_size, *keys, *values, text.linear_conv_kernel_dim)
        return replace(super().shape, attention=attention, linear_flops=flops)

    def layer_kind(self, layer: int) -> str:
        return self.config.text_config.layer_types[layer]

    def layer_mask(self, kind: str, keys: Keys, queries: int, padded: bool, dtype: torch.dtype) -> Tensor | None:
        """Linear layers want to know which of the tokens at hand are padding."""
        if kind == FULL:
            return super().layer_mask(kind, keys, queries, padded, dtype)
        return keys.valid[:, -queries:] if padded and queries > 1 else None

    def queries_keys(
        self, layer: nn.Module, hidden: Tensor, rotary: tuple[Tensor, Tensor] | None, query: Tensor
    ) -> Heads:
        """As in `Family`, of layers with full attention; the projection to queries also makes gates, head by head.

        Raises:
            ValueError: a layer with linear attention.
        """
        if not hasattr(layer, "self_attn"):
            raise ValueError(f"this layer of a {self.model_type} has linear attention: no queries and keys to read")
        queries, keys, scale = super().queries_keys(layer, hidden, rotary, query)
        return Heads(queries[:, ::2], keys, scale)
