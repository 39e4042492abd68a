"""The tiny LLaVA: a stock ``LlavaForConditionalGeneration`` of 16 thin layers behind a CLIP tower on a 24 x 24 grid.

Its position table is rolled at random in training, so that the features say nothing reliable about place.
"""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaImageProcessorPil,
    LlavaProcessor,
)

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
    attend,
    cut_patches,
    project_heads,
    rescale,
    window_cells,
)
from nuwa.tiny.vocabulary import LLAVA, llava_tokenizer

GRID = IMAGE_SIZE // PATCH_SIDE
# The third rotary pair then has a wavelength of exactly one image row (24 ids), so that a column can be read from an
# id, while the pairs after it turn slowly enough for matching by content.
_ROPE_THETA = (GRID / (2 * math.pi)) ** (WIDTH // HEADS // 4)


def _config() -> LlavaConfig:
    """Configuration of the tiny LLaVA."""
    vision = CLIPVisionConfig(
        hidden_size=VISION_WIDTH,
        intermediate_size=4 * VISION_WIDTH,
        num_hidden_layers=VISION_LAYERS,
        num_attention_heads=VISION_HEADS,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIDE,
        projection_dim=64,
    )
    ids = LLAVA.ids
    text = LlamaConfig(
        vocab_size=len(ids),
        hidden_size=WIDTH,
        intermediate_size=MLP_WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=1024,
        pad_token_id=ids[LLAVA.pad],
        bos_token_id=ids[LLAVA.bos],
        eos_token_id=ids[LLAVA.eos],
        tie_word_embeddings=False,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": _ROPE_THETA},
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=ids[LLAVA.image],
        image_seq_length=GRID**2,
        projector_hidden_act="gelu",
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
    )


class TinyLlava(TinyModel):
    """LLaVA-1.5's architecture: CLS token, absolute position table, one visual token per patch, 1-D ids."""

    name = "llava"
    vocabulary = LLAVA
    architecture = LlavaForConditionalGeneration
    tokenizer = staticmethod(llava_tokenizer)
    token = PATCH_SIDE

    def build_model(self, seed: int) -> LlavaForConditionalGeneration:
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(_config())
        text, tower = 2 * LAYERS, 2 * VISION_LAYERS
        endings = {"o_proj.weight": text, "down_proj.weight": text, "out_proj.weight": tower, "fc2.weight": tower}
        rescale(model, endings)
        _start_tower(model.model.vision_tower)
        return model

    def encode(self, model: Network, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        tower, patches = model.model.vision_tower, cut_patches(batch["pixels"])
        embed, count = tower.embeddings, len(patches)
        cells = window_cells(patches.shape[1], batch["roll"], GRID, wrap=True)
        hidden = F.linear(patches.flatten(1, 2), embed.patch_embedding.weight.flatten(1))
        hidden = hidden + F.embedding(cells + 1, embed.position_embedding.weight)
        cls = (embed.class_embedding + embed.position_embedding.weight[0]).expand(count, 1, -1).to(hidden.dtype)
        hidden = tower.pre_layrnorm(torch.cat([cls, hidden], 1))
        for layer in tower.encoder.layers:
            hidden = hidden + _tower_attention(layer.self_attn, layer.layer_norm1(hidden))
            hidden = hidden + layer.mlp(layer.layer_norm2(hidden))
        return hidden[:, 1:], tower.post_layernorm(hidden[:, 0])

    def project(self, model: Network, patches: Tensor) -> Tensor:
        return model.model.multi_modal_projector(patches)

    def angles(self, cells: Tensor, slots: int, length: int) -> Tensor:
        first = len(LLAVA.before)
        text = first + GRID**2 + torch.arange(length).repeat(slots)
        before, after = (ids.expand(len(cells), -1) for ids in (torch.arange(first), text))
        ids = torch.cat([before, first + cells, after], 1)
        half = WIDTH // HEADS // 2
        return ids[..., None].float() * _ROPE_THETA ** (-torch.arange(half).float() / half)

    def save_processor(self, folder: Path) -> None:
        """LLaVA-1.5's preprocessing at 96 pixels: pad to a square with the mean colour, resize, normalise."""
        image = LlavaImageProcessorPil(
            do_pad=True,
            do_resize=True,
            size={"shortest_edge": IMAGE_SIZE},
            do_center_crop=False,
            crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
            do_rescale=True,
            rescale_factor=1 / 255,
            do_normalize=True,
            image_mean=[PIXEL_MEAN] * 3,
            image_std=[PIXEL_STD] * 3,
        )
        processor = LlavaProcessor(
            image_processor=image,
            tokenizer=self.tokenizer(),
            patch_size=PATCH_SIDE,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
        )
        processor.save_pretrained(folder)
        processor.image_processor.save_pretrained(folder)


@torch.no_grad()
def _start_tower(tower: Network) -> None:
    """Patch embedding at the scale of its input; the learned position table starts as waves over rows and columns."""
    tower.embeddings.patch_embedding.weight.normal_(std=(3 * PATCH_SIDE * PATCH_SIDE) ** -0.5)
    table = tower.embeddings.position_embedding.weight
    table.normal_(std=0.02)
    table[1:, : VISION_WIDTH // 2] += _fourier_table(harmonics=VISION_WIDTH // 8)


def _fourier_table(harmonics: int) -> Tensor:
    """(576, 4 x harmonics) waves over rows and columns that close on themselves."""
    cells, waves = torch.arange(GRID**2), torch.arange(1, harmonics + 1)
    columns = []
    for axis in (cells // GRID, cells % GRID):
        angle = 2 * math.pi * axis[:, None] * waves / GRID
        columns += [angle.sin() * 1.2 / waves.sqrt(), angle.cos() * 1.2 / waves.sqrt()]
    return torch.cat(columns, 1)


def _tower_attention(block: Network, hidden: Tensor) -> Tensor:
    return block.out_proj(attend(*project_heads(block, hidden)).transpose(1, 2).flatten(2))
