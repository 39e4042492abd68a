"""The tiny video model: a stock ``LlavaOnevisionForConditionalGeneration`` behind a SigLIP tower, asked about clips.

The tower sees every frame alone, so that when something happens can only be read from position ids.
"""

from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2Config,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
)

from nuwa.scenes.clips import CLIP_SIZE, FRAMES
from nuwa.tiny.base import PIXELS, VISION_HEADS, VISION_WIDTH, fourier_table
from nuwa.tiny.clips import CLIP_TOKENS, GRID_SIDE, POOLED, TinyClipModel
from nuwa.tiny.layers import PATCH_SIDE, Network, attend, cut_patches, project_heads
from nuwa.tiny.vocabulary import ONEVISION, chat_tokenizer


class TinyVideo(TinyClipModel):
    """LLaVA-OneVision's architecture: no CLS token, 2 x 2 patches pooled to a token, one newline after the video."""

    name = "video"
    vocabulary = ONEVISION
    architecture = LlavaOnevisionForConditionalGeneration
    tokenizer = staticmethod(partial(chat_tokenizer, ONEVISION))
    size = CLIP_SIZE
    layers = 8
    vision_layers = 3
    token = POOLED * PATCH_SIDE
    span = CLIP_TOKENS
    sections = (16,)
    theta = 4000.0

    def config(self) -> LlavaOnevisionConfig:
        vision = SiglipVisionConfig(
            hidden_size=VISION_WIDTH,
            intermediate_size=2 * VISION_WIDTH,
            num_hidden_layers=self.vision_layers,
            num_attention_heads=VISION_HEADS,
            image_size=CLIP_SIZE,
            patch_size=PATCH_SIDE,
            vision_use_head=False,
        )
        rope = {"rope_type": "default", "rope_theta": self.theta}
        text = Qwen2Config(**self.text_options(), bos_token_id=None, rope_parameters=rope)
        return LlavaOnevisionConfig(
            vision_config=vision.to_dict(),
            text_config=text.to_dict(),
            image_token_index=ONEVISION.ids["<image>"],
            video_token_index=ONEVISION.ids["<video>"],
            image_grid_pinpoints=[[CLIP_SIZE, CLIP_SIZE]],
            tie_word_embeddings=False,
        )

    def start_tower(self, model: Network) -> None:
        """Patch embedding at the scale of its input; the learned position table starts as waves that close."""
        embed = model.model.vision_tower.embeddings
        embed.patch_embedding.weight.normal_(std=(3 * PATCH_SIDE * PATCH_SIDE) ** -0.5)
        table = embed.position_embedding.weight
        table.normal_(std=0.02)
        waves = fourier_table(CLIP_SIZE // PATCH_SIDE, harmonics=4)
        table[:, : waves.shape[1]] += waves

    def encode(self, model: Network, batch: dict[str, Tensor]) -> tuple[Tensor, None]:
        tower = model.model.vision_tower
        embed, patches = tower.embeddings, cut_patches(batch["pixels"]).flatten(1, 2)
        filters = embed.patch_embedding
        hidden = F.linear(patches, filters.weight.flatten(1), filters.bias) + embed.position_embedding.weight
        for layer in tower.encoder.layers:
            mixed = attend(*project_heads(layer.self_attn, layer.layer_norm1(hidden)))
            hidden = hidden + layer.self_attn.out_proj(mixed.transpose(1, 2).flatten(2))
            hidden = hidden + layer.mlp(layer.layer_norm2(hidden))
        return hidden, None

    def project(self, model: Network, patches: Tensor) -> Tensor:
        projected = model.model.multi_modal_projector(patches)
        squares = projected.unflatten(1, (GRID_SIDE, POOLED, GRID_SIDE, POOLED)).mean((2, 4))
        frames = squares.flatten(1, 2).unflatten(0, (-1, FRAMES)).flatten(1, 2)
        newline = model.model.image_newline.to(frames.dtype).expand(len(frames), 1, -1)
        return torch.cat([frames, newline], 1)

    def places(self, cells: Tensor) -> Tensor:
        return cells[:, None]

    def save_processor(self, folder: Path) -> None:
        """SigLIP's preprocessing of frames of 32 pixels."""
        self.tokenizer().save_pretrained(folder)
        size = {"height": CLIP_SIZE, "width": CLIP_SIZE}
        SiglipImageProcessorPil(size=size, **PIXELS).save_pretrained(folder)
