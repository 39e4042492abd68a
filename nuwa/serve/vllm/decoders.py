"""vLLM's decoders where its own do not take what a pruned picture brings: ids with three axes, planes of features."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from vllm.compilation.decorators import support_torch_compile
from vllm.config import VllmConfig
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.models.llama import LlamaForCausalLM, LlamaModel
from vllm.model_executor.models.qwen3 import Qwen3ForCausalLM, Qwen3Model
from vllm.model_executor.models.utils import maybe_prefix

TOKENS = {"input_ids": {0: "b"}, "positions": {-1: "b"}, "intermediate_tensors": {0: "b"}, "inputs_embeds": {0: "b"}}
"""Which axis of each argument counts tokens."""


@support_torch_compile(dynamic_arg_dims=TOKENS)
class NuwaLlamaModel(LlamaModel):
    """Compiled for position ids (3, N) as well as (N,): vLLM's own takes the first axis for that of tokens."""


class NuwaLlamaForCausalLM(LlamaForCausalLM):
    """The decoder and its head."""

    def _init_model(self, vllm_config, prefix="", layer_type=None):
        chosen = {} if layer_type is None else {"layer_type": layer_type}
        return NuwaLlamaModel(vllm_config=vllm_config, prefix=prefix, **chosen)


@support_torch_compile(dynamic_arg_dims=TOKENS | {"planes": {0: "b"}})
class NuwaQwen3Model(Qwen3Model):
    """Qwen3 as in Qwen3-VL: plane n of the visual tokens' features is added behind layer n (deepstack)."""

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: Tensor | None = None,
        planes: Tensor | None = None,
    ) -> Tensor:
        """States (N, H), with ``planes`` (N, P, H), zeros for text."""
        hidden = self.embed_input_ids(input_ids) if inputs_embeds is None else inputs_embeds
        residual = None
        for number, layer in enumerate(self.layers):
            hidden, residual = layer(positions, hidden, residual)
            if planes is not None and number < planes.shape[1]:
                hidden = hidden + planes[:, number]
        return self.norm(hidden, residual)[0]


class NuwaQwen3ForCausalLM(Qwen3ForCausalLM):
    """The decoder and its head: what vLLM's makes, but for the decoder's class."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        nn.Module.__init__(self)
        config, quant = vllm_config.model_config.hf_config, vllm_config.quant_config
        self.config, self.vllm_config, self.quant_config = config, vllm_config, quant
        self.model = NuwaQwen3Model(vllm_config=vllm_config, prefix=maybe_prefix(prefix, "model"))
        sizes, name = (config.vocab_size, config.hidden_size), maybe_prefix(prefix, "lm_head")
        self.lm_head = ParallelLMHead(*sizes, quant_config=quant, prefix=name)
        if config.tie_word_embeddings:
            self.lm_head = self.lm_head.tie_weights(self.model.embed_tokens)
        self.logits_processor = LogitsProcessor(config.vocab_size)
        self.make_empty_intermediate_tensors = self.model.make_empty_intermediate_tensors
