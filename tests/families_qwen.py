"""A small Qwen2.5-VL of the real architecture: several windows, two kinds of attention blocks, boosted weights."""

from __future__ import annotations

import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig, Qwen2_5_VLVisionConfig

PATCH, MERGE, WINDOW = 4, 2, 16
"""A window holds 2 x 2 tokens of 8 x 8 pixels."""
IMAGE, VIDEO, START, END, VOCABULARY = 4, 3, 6, 7, 64


def random_qwen(attention: str = "sdpa", dtype: torch.dtype = torch.float32, layers: int = 6, boost: float = 3.0):
    """Random weights, boosted so that attention is not flat."""
    torch.manual_seed(0)
    vision = Qwen2_5_VLVisionConfig(
        depth=4,
        hidden_size=32,
        intermediate_size=64,
        num_heads=2,
        patch_size=PATCH,
        spatial_merge_size=MERGE,
        temporal_patch_size=2,
        window_size=WINDOW,
        out_hidden_size=48,
        fullatt_block_indexes=[1, 3],
    )
    text = Qwen2_5_VLTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=layers,
        num_attention_heads=3,
        num_key_value_heads=1,
        max_position_embeddings=512,
        rope_parameters={"rope_type": "default", "rope_theta": 1000.0, "mrope_section": [2, 3, 3]},
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    config = Qwen2_5_VLConfig(
        vision_config=vision.to_dict(),
        text_config=text.to_dict(),
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=START,
        vision_end_token_id=END,
    )
    config._attn_implementation = attention
    model = Qwen2_5_VLForConditionalGeneration(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2 and ("language_model.layers" in name or "visual" in name):
                parameter.mul_(boost)
    model.generation_config.eos_token_id = None  # random models may generate any token
    return model.eval().to(dtype)
