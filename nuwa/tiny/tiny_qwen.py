"""The tiny Qwen2.5-VL: a stock ``Qwen2_5_VLForConditionalGeneration`` of 16 thin layers on a 12 x 12 grid of tokens.

Its tower sees places only relative to each other (2-D rotary positions), so that where a token is stands nowhere but in
the three-axis position ids of the language model.
"""

from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig, Qwen2_5_VLVisionConfig
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from nuwa.scenes.scene import IMAGE_SIZE
from nuwa.tiny.base import PIXELS, VISION_HEADS, VISION_WIDTH, WIDTH
from nuwa.tiny.layers import PATCH_SIDE, Network, apply_rope, attend, cut_patches, rms_norm, waves
from nuwa.tiny.pictures import TinyPictureModel
from nuwa.tiny.vocabulary import QWEN, chat_tokenizer

MERGE = 2
WINDOW = 24  # pixels; divides a picture of 96 and a training window of 48
FULL_ATTENTION = (1, 3)


class TinyQwen(TinyPictureModel):
    """Qwen2.5-VL's architecture: no CLS token, window attention, four patches per visual token, M-RoPE."""

    name = "qwen"
    vocabulary = QWEN
    architecture = Qwen2_5_VLForConditionalGeneration
    tokenizer = staticmethod(partial(chat_tokenizer, QWEN))
    token = PATCH_SIDE * MERGE
    span = IMAGE_SIZE // token
    # Rotary pairs of time, height and width. Rows are read from two pairs of 0.35 and 0.21 radians per step, columns
    # from 0.13 and 0.07; the nine slowest stay all but still over a prompt and match text to tokens by content.
    sections = (2, 2, 12)
    theta = 4000.0

    def config(self) -> Qwen2_5_VLConfig:
        vision = Qwen2_5_VLVisionConfig(
            depth=self.vision_layers,
            hidden_size=VISION_WIDTH,
            intermediate_size=256,
            num_heads=VISION_HEADS,
            patch_size=PATCH_SIDE,
            spatial_merge_size=MERGE,
            window_size=WINDOW,
            fullatt_block_indexes=list(FULL_ATTENTION),
            out_hidden_size=WIDTH,
        )
        rope = {"rope_type": "default", "rope_theta": self.theta, "mrope_section": list(self.sections)}
        text = Qwen2_5_VLTextConfig(**self.text_options(), bos_token_id=None, rope_parameters=rope)
        return Qwen2_5_VLConfig(
            vision_config=vision,
            text_config=text,
            image_token_id=QWEN.ids["<|image_pad|>"],
            video_token_id=QWEN.ids["<|video_pad|>"],
            vision_start_token_id=QWEN.ids["<|vision_start|>"],
            vision_end_token_id=QWEN.ids["<|vision_end|>"],
            tie_word_embeddings=False,
        )

    def start_tower(self, model: Network) -> None:
        """Patch embedding at the scale of its input, two equal frames."""
        model.model.visual.patch_embed.proj.weight.normal_(std=(2 * 3 * PATCH_SIDE * PATCH_SIDE) ** -0.5)

    def encode(self, model: Network, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        tower, patches = model.model.visual, cut_patches(batch["pixels"])
        side = patches.shape[1]
        # a still picture is two equal frames, so that the two halves of the patch filter add up
        hidden = F.linear(patches.flatten(1, 2), tower.patch_embed.proj.weight.sum(2).flatten(1))
        angles = _tower_angles(side)
        for index, block in enumerate(tower.blocks):
            window = side if index in FULL_ATTENTION else WINDOW // PATCH_SIDE
            hidden = hidden + _tower_attention(block.attn, rms_norm(block.norm1, hidden), angles, window)
            hidden = hidden + block.mlp(rms_norm(block.norm2, hidden))
        return hidden, hidden.mean(1)

    def project(self, model: Network, patches: Tensor) -> Tensor:
        merger = model.model.visual.merger
        return merger.mlp(_tiles(rms_norm(merger.ln_q, patches), MERGE).flatten(2))

    def places(self, cells: Tensor) -> Tensor:
        return torch.stack([torch.zeros_like(cells), cells // self.grid, cells % self.grid], 1)

    def save_processor(self, folder: Path) -> None:
        """Qwen's preprocessing with patches of 4 pixels; pictures keep their shape and are at most 96 x 96 in area."""
        self.tokenizer().save_pretrained(folder)
        size = {"shortest_edge": (2 * self.token) ** 2, "longest_edge": IMAGE_SIZE**2}
        processor = Qwen2VLImageProcessorPil(size=size, patch_size=PATCH_SIDE, merge_size=MERGE, **PIXELS)
        processor.save_pretrained(folder)


def _tiles(states: Tensor, side: int) -> Tensor:
    """(B, P, ...) of patches in raster order -> (B, P / side^2, side^2, ...), square by square."""
    count = round(states.shape[1] ** 0.5) // side
    return states.unflatten(1, (count, side, count, side)).transpose(2, 3).flatten(3, 4).flatten(1, 2)


def _tower_angles(side: int) -> Tensor:
    """Rotary angles (side * side, 16) of the patches: eight pairs turn with the row, eight with the column."""
    quarter = VISION_WIDTH // VISION_HEADS // 4
    speed = 10000.0 ** (-torch.arange(quarter).float() / quarter)
    cells = torch.arange(side * side)
    return torch.cat([(cells // side)[:, None] * speed, (cells % side)[:, None] * speed], 1)


def _tower_attention(block: Network, hidden: Tensor, angles: Tensor, window: int) -> Tensor:
    """Attention within squares of ``window`` x ``window`` patches, raster order in and out."""
    qkv = _tiles(block.qkv(hidden), window).unflatten(-1, (3, VISION_HEADS, -1))
    query, key, value = qkv.permute(3, 0, 1, 4, 2, 5)  # each (B, windows, heads, patches, width)
    rope = waves(_tiles(angles[None], window)[:, :, None], query.dtype)
    mixed = attend(apply_rope(query, rope), apply_rope(key, rope), value).transpose(2, 3).flatten(3)
    count = round(mixed.shape[1] ** 0.5)
    mixed = mixed.unflatten(2, (window, window)).unflatten(1, (count, count)).transpose(2, 3)
    return block.proj(mixed.reshape(hidden.shape))
