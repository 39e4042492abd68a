"""The tiny Qwen2.5-VL: a stock ``Qwen2_5_VLForConditionalGeneration`` of 16 thin layers on a 12 x 12 grid of tokens.

Its tower sees places only relative to each other (2-D rotary positions), so that where a token is stands nowhere but in
the three-axis position ids of the language model.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig, Qwen2_5_VLVisionConfig
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from nuwa.scenes.scene import IMAGE_SIZE
from nuwa.tiny.base import (
    HEADS,
    LAYERS,
    MLP_WIDTH,
    PATCH_SIDE,
    PIXEL_MEAN,
    PIXEL_STD,
    VISION_HEADS,
    VISION_LAYERS,
    VISION_WIDTH,
    WIDTH,
    Network,
    TinyModel,
    apply_rope,
    attend,
    cut_patches,
    rescale,
    rms_norm,
    waves,
)
from nuwa.tiny.vocabulary import QWEN, qwen_tokenizer

MERGE = 2
WINDOW = 24  # pixels; divides a picture of 96 and a training window of 48
FULL_ATTENTION = (1, 3)
VISION_MLP_WIDTH = 256
# Rotary pairs of time, height and width. Rows are read from two pairs of 0.35 and 0.21 radians per step, columns from
# 0.13 and 0.07; the nine slowest stay all but still over a prompt and match text to tokens by content.
SECTIONS = (2, 2, 12)
_ROPE_THETA, VISION_THETA = 4000.0, 10000.0


def _config() -> Qwen2_5_VLConfig:
    """Configuration of the tiny Qwen2.5-VL."""
    ids = QWEN.ids
    vision = Qwen2_5_VLVisionConfig(
        depth=VISION_LAYERS,
        hidden_size=VISION_WIDTH,
        intermediate_size=VISION_MLP_WIDTH,
        num_heads=VISION_HEADS,
        patch_size=PATCH_SIDE,
        spatial_merge_size=MERGE,
        window_size=WINDOW,
        fullatt_block_indexes=list(FULL_ATTENTION),
        out_hidden_size=WIDTH,
    )
    text = Qwen2_5_VLTextConfig(
        vocab_size=len(ids),
        hidden_size=WIDTH,
        intermediate_size=MLP_WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=1024,
        pad_token_id=ids[QWEN.pad],
        bos_token_id=None,
        eos_token_id=ids[QWEN.eos],
        rope_parameters={"rope_type": "default", "rope_theta": _ROPE_THETA, "mrope_section": list(SECTIONS)},
    )
    return Qwen2_5_VLConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=False,
    )


class TinyQwen(TinyModel):
    """Qwen2.5-VL's architecture: no CLS token, window attention, four patches per visual token, M-RoPE."""

    name = "qwen"
    vocabulary = QWEN
    architecture = Qwen2_5_VLForConditionalGeneration
    tokenizer = staticmethod(qwen_tokenizer)
    token = PATCH_SIDE * MERGE

    def build_model(self, seed: int) -> Qwen2_5_VLForConditionalGeneration:
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(_config())
        text, tower = 2 * LAYERS, 2 * VISION_LAYERS
        rescale(model, {"o_proj.weight": text, "attn.proj.weight": tower})
        with torch.no_grad():
            model.model.visual.patch_embed.proj.weight.normal_(std=(2 * 3 * PATCH_SIDE * PATCH_SIDE) ** -0.5)
            for layers, branches in ((model.model.language_model.layers, text), (model.model.visual.blocks, tower)):
                for layer in layers:
                    layer.mlp.down_proj.weight.mul_(branches**-0.5)
        return model

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
        return merger.mlp(merge_units(rms_norm(merger.ln_q, patches)))

    def angles(self, cells: Tensor, slots: int, length: int) -> Tensor:
        first, grid = len(QWEN.before), self.grid
        text = first + grid + torch.arange(length).repeat(slots)
        before, after = (ids.expand(len(cells), 3, -1) for ids in (torch.arange(first), text))
        place = first + torch.stack([torch.zeros_like(cells), cells // grid, cells % grid], 1)
        ids = torch.cat([before, place, after], 2)
        half = WIDTH // HEADS // 2
        axis = torch.arange(3).repeat_interleave(torch.tensor(SECTIONS))
        return ids[:, axis].mT.float() * _ROPE_THETA ** (-torch.arange(half).float() / half)

    def save_processor(self, folder: Path) -> None:
        """Qwen's preprocessing with patches of 4 pixels; pictures keep their shape and are at most 96 x 96 in area."""
        self.tokenizer().save_pretrained(folder)
        Qwen2VLImageProcessorPil(
            size={"shortest_edge": (2 * self.token) ** 2, "longest_edge": IMAGE_SIZE**2},
            patch_size=PATCH_SIDE,
            temporal_patch_size=2,
            merge_size=MERGE,
            image_mean=[PIXEL_MEAN] * 3,
            image_std=[PIXEL_STD] * 3,
        ).save_pretrained(folder)


def merge_units(patches: Tensor) -> Tensor:
    """The 2 x 2 patches of every visual token side by side: (B, P, dv) in raster order -> (B, P / 4, 4 dv)."""
    side = round(patches.shape[1] ** 0.5)
    units = patches.unflatten(1, (side // MERGE, MERGE, side // MERGE, MERGE))
    return units.transpose(2, 3).flatten(3).flatten(1, 2)


def _tower_angles(side: int) -> Tensor:
    """Rotary angles (side * side, 16) of the patches: eight pairs turn with the row, eight with the column."""
    quarter = VISION_WIDTH // VISION_HEADS // 4
    speed = VISION_THETA ** (-torch.arange(quarter).float() / quarter)
    cells = torch.arange(side * side)
    return torch.cat([(cells // side)[:, None] * speed, (cells % side)[:, None] * speed], 1)


def _tower_attention(block: Network, hidden: Tensor, angles: Tensor, window: int) -> Tensor:
    """Attention within squares of ``window`` x ``window`` patches, raster order in and out."""
    side = round(hidden.shape[1] ** 0.5)
    count = side // window

    def split(states: Tensor) -> Tensor:
        """(B, P, ...) -> (B, windows, patches of one, ...)."""
        rest = states.shape[2:]
        tiles = states.reshape(len(states), count, window, count, window, *rest).transpose(2, 3)
        return tiles.reshape(len(states), count * count, window * window, *rest)

    qkv = split(block.qkv(hidden)).unflatten(-1, (3, VISION_HEADS, -1))
    query, key, value = qkv.permute(3, 0, 1, 4, 2, 5)  # each (B, windows, heads, patches, width)
    rope = waves(split(angles[None])[:, :, None], query.dtype)
    mixed = attend(apply_rope(query, rope), apply_rope(key, rope), value).transpose(2, 3).flatten(3)
    mixed = mixed.reshape(len(hidden), count, count, window, window, -1).transpose(2, 3)
    return block.proj(mixed.reshape(hidden.shape))
