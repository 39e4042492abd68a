"""vLLM's Llama, compiled for position ids (3, N) as well as (N,): its own takes the first axis for that of tokens."""

from __future__ import annotations

from vllm.compilation.decorators import support_torch_compile
from vllm.model_executor.models.llama import LlamaForCausalLM, LlamaModel

TOKENS = {"input_ids": {0: "b"}, "positions": {-1: "b"}, "intermediate_tensors": {0: "b"}, "inputs_embeds": {0: "b"}}
"""Which axis of each argument counts tokens."""


@support_torch_compile(dynamic_arg_dims=TOKENS)
class NuwaLlamaModel(LlamaModel):
    """The decoder."""


class NuwaLlamaForCausalLM(LlamaForCausalLM):
    """The decoder and its head."""

    def _init_model(self, vllm_config, prefix="", layer_type=None):
        chosen = {} if layer_type is None else {"layer_type": layer_type}
        return NuwaLlamaModel(vllm_config=vllm_config, prefix=prefix, **chosen)
