"""What an engine is asked for besides the model, and what of it does not go with a pruned one.

Pipeline parallelism is refused by vLLM itself, as the model does not say that it supports it.
"""

from __future__ import annotations

import json

from vllm.config import VllmConfig

from nuwa.models.base import Family
from nuwa.serve.settings import CONFIG_KEY, READING, Served, overrides, places_ids


def check_switches(vllm_config: VllmConfig, served: Served, family: Family) -> None:
    """Refuse to run where vLLM would not ask for the ids of pictures' tokens, or would ask though none are placed.

    Raises:
        ValueError: the rate of video pruning or the rotary embedding of the text model says otherwise.
    """
    config, placed = vllm_config.model_config, places_ids(served, family)
    asked = config.get_multimodal_config().is_multimodal_pruning_enabled()
    rope = overrides(served, family).get("text_config", {}).get("rope_parameters", {})
    turned = rope.items() <= config.hf_config.text_config.rope_parameters.items()
    if asked != placed or (placed and not (config.uses_mrope and turned)):
        way = f"with --video-pruning-rate 0.5 {rope or ''}" if placed else "without --video-pruning-rate"
        raise ValueError(f"{CONFIG_KEY}.position: this is served {way}; nuwa serve --print writes the whole line")


def check_engine(vllm_config: VllmConfig) -> None:
    """Refuse what an engine can be asked for and what nobody has shown to leave the answers as they are.

    Raises:
        ValueError: one of it is asked for.
    """
    pictures = vllm_config.model_config.get_multimodal_config()
    wishes = {
        "--quantization": vllm_config.quant_config is not None,
        "--enable-lora": vllm_config.lora_config is not None,
        "--speculative-config": vllm_config.speculative_config is not None,
        "--kv-transfer-config or --kv-offloading-size": vllm_config.kv_transfer_config is not None,
        "--ec-transfer-config": vllm_config.ec_transfer_config is not None,
        "--enable-mm-embeds": pictures.enable_mm_embeds,
        "--mm-processor-kwargs": bool(pictures.mm_processor_kwargs),
        "--enable-dbo": vllm_config.parallel_config.use_ubatching,
    }
    for wish, asked in wishes.items():
        if asked:
            raise ValueError(f"{wish}: a pruned model is not served with it; leave it out")
    if pictures.media_io_kwargs.get("image") != READING["image"]:
        raise ValueError(f"--media-io-kwargs: pictures are read with '{json.dumps(READING)}'")
