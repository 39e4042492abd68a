"""The architectures of the real models at any size: one config per family, and the tokens its tokenizer must have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaNextConfig,
    LlavaOnevisionConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2Config,
    SiglipVisionConfig,
)

from nuwa.models.checkpoint import ModelError

PATCH = 14


@dataclass(frozen=True)
class Sizes:
    """Sizes of a random model. ``kv_heads`` null: as many as ``heads``; ``vision_intermediate_size`` null: 4 times.

    ``image_size`` is the side of the square that LLaVA's towers take; Qwen2.5-VL has none.

    Raises:
        ModelError: the sizes do not fit each other.
    """

    hidden_size: int = 128
    intermediate_size: int = 344
    layers: int = 16
    heads: int = 4
    kv_heads: int | None = None
    vocab_size: int = 500
    vision_hidden_size: int = 128
    vision_intermediate_size: int | None = None
    vision_layers: int = 6
    vision_heads: int = 4
    image_size: int = 336

    def __post_init__(self) -> None:
        pairs = [("hidden_size", "heads"), ("vision_hidden_size", "vision_heads")]
        for size, heads in pairs + ([("heads", "kv_heads")] if self.kv_heads else []):
            if getattr(self, size) % getattr(self, heads):
                raise ModelError(f"model.{size}={getattr(self, size)} must be a multiple of model.{heads}")
        if self.image_size < PATCH:
            raise ModelError(f"model.image_size={self.image_size} must be at least {PATCH}")
        if self.vision_layers < 2 or self.layers < 1:
            raise ModelError("model.vision_layers must be at least 2 and model.layers at least 1")

    @property
    def text(self) -> dict[str, object]:
        """Settings of the LLM's config."""
        return {
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads or self.heads,
        }

    @property
    def tower(self) -> dict[str, object]:
        """Settings of the config of LLaVA's towers."""
        return {
            "hidden_size": self.vision_hidden_size,
            "intermediate_size": self.vision_intermediate_size or 4 * self.vision_hidden_size,
            "num_hidden_layers": self.vision_layers,
            "num_attention_heads": self.vision_heads,
            "image_size": self.image_size,
            "patch_size": PATCH,
        }


def llava(tokenizer: PreTrainedTokenizerFast, sizes: Sizes) -> LlavaConfig:
    """LLaVA-1.5: CLIP with a CLS token, penultimate layer, two-layer projector, Llama."""
    return LlavaConfig(
        vision_config=_clip(sizes),
        text_config=_llama(tokenizer, sizes),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=(sizes.image_size // PATCH) ** 2,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )


def llava_next(tokenizer: PreTrainedTokenizerFast, sizes: Sizes) -> LlavaNextConfig:
    """LLaVA-NeXT: as LLaVA-1.5, with up to four tiles in five arrangements."""
    arrangements = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))
    return LlavaNextConfig(
        vision_config=_clip(sizes),
        text_config=_llama(tokenizer, sizes),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=[[sizes.image_size * side for side in sides] for sides in arrangements],
        image_seq_length=(sizes.image_size // PATCH) ** 2,
    )


def llava_onevision(tokenizer: PreTrainedTokenizerFast, sizes: Sizes) -> LlavaOnevisionConfig:
    """LLaVA-OneVision: SigLIP without a CLS token, last layer, up to 6 x 6 tiles, Qwen2."""
    sides = [sizes.image_size * count for count in range(1, 7)]
    return LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(**sizes.tower, vision_use_head=False).to_dict(),
        text_config=Qwen2Config(**sizes.text, **_ends(tokenizer), rope_parameters=_rope(1e6)).to_dict(),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=[[height, width] for height in sides for width in sides],
    )


def qwen2_5_vl(tokenizer: PreTrainedTokenizerFast, sizes: Sizes) -> Qwen2_5_VLConfig:
    """Qwen2.5-VL: windows of 4 x 4 tokens, every fourth part of the tower ends in full attention, M-RoPE."""
    half = sizes.hidden_size // sizes.heads // 2
    if half % 8:
        raise ModelError(f"model.hidden_size={sizes.hidden_size} must be a multiple of 16 times model.heads")
    period = max(sizes.vision_layers // 4, 2)
    vision = {
        "depth": sizes.vision_layers,
        "hidden_size": sizes.vision_hidden_size,
        "intermediate_size": sizes.vision_intermediate_size or 4 * sizes.vision_hidden_size,
        "num_heads": sizes.vision_heads,
        "out_hidden_size": sizes.hidden_size,
        "patch_size": PATCH,
        "window_size": 8 * PATCH,
        "fullatt_block_indexes": list(range(period - 1, sizes.vision_layers, period)),
    }
    rope = _rope(1e6) | {"mrope_section": [half // 4, 3 * half // 8, 3 * half // 8]}
    names = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>"}
    names |= {"vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>"}
    return Qwen2_5_VLConfig(
        vision_config=vision,
        text_config=sizes.text | _ends(tokenizer) | {"rope_parameters": rope},
        **{key: tokenizer.convert_tokens_to_ids(token) for key, token in names.items()},
    )


@dataclass(frozen=True)
class RandomFamily:
    """A family's config, the tokens its tokenizer must have, and the half precision of its checkpoints.

    ``pad``, ``end`` and ``start`` of a prompt are among the ``special`` tokens; ``words`` is text the tokenizer has to
    know besides questions; ``whole_patches``: ``image_size`` has to be a multiple of the patch.
    """

    config: Callable[[PreTrainedTokenizerFast, Sizes], PreTrainedConfig]
    special: tuple[str, ...]
    pad: str = "<pad>"
    start: str | None = "<s>"
    end: str = "</s>"
    words: str = ""
    half: torch.dtype = torch.float16
    whole_patches: bool = True


_VICUNA = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
_CHAT = {"pad": "<|endoftext|>", "start": None, "end": "<|im_end|>", "whole_patches": False}
_CHAT |= {"words": "system\nYou are a helpful assistant.\nuser\nassistant\n"}
_TURNS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_VISION = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
RANDOM_FAMILIES = {
    "llava": RandomFamily(llava, _VICUNA),
    "llava_next": RandomFamily(llava_next, _VICUNA),
    "llava_onevision": RandomFamily(llava_onevision, (*_TURNS, "<image>", "<video>"), **_CHAT),
    "qwen2_5_vl": RandomFamily(qwen2_5_vl, (*_TURNS, *_VISION), half=torch.bfloat16, **_CHAT),
}


def _clip(sizes: Sizes) -> dict[str, object]:
    return CLIPVisionConfig(**sizes.tower, projection_dim=sizes.vision_hidden_size).to_dict()


def _llama(tokenizer: PreTrainedTokenizerFast, sizes: Sizes) -> dict[str, object]:
    return LlamaConfig(**sizes.text, **_ends(tokenizer), max_position_embeddings=4096, rms_norm_eps=1e-5).to_dict()


def _ends(tokenizer: PreTrainedTokenizerFast) -> dict[str, int | None]:
    return {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}


def _rope(theta: float) -> dict[str, object]:
    return {"rope_type": "default", "rope_theta": theta}
