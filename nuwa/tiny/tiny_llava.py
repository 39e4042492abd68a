"""The tiny LLaVA: a stock ``LlavaForConditionalGeneration`` of 16 thin layers behind a CLIP tower on a 24 x 24 grid.

Its position table is rolled at random in training, so that the features say nothing reliable about place.
"""

import math
from functools import partial
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

from nuwa.tiny.base import PIXELS, VISION_HEADS, VISION_WIDTH, TinyModel, fourier_table
from nuwa.tiny.layers import PATCH_SIDE, Network, attend, cut_patches, project_heads, window_cells
from nuwa.tiny.pictures import TinyPictureModel
from nuwa.tiny.vocabulary import LLAVA, llava_tokenizer


class LlavaNetwork(TinyModel):
    """LLaVA-1.5's architecture: CLS token, absolute position table, one visual token per patch, 1-D ids."""

    architecture = LlavaForConditionalGeneration
    token = PATCH_SIDE
    sections = (16,)

    @property
    def span(self) -> int:
        return self.grid**2

    @property
    def theta(self) -> float:
        """The third rotary pair has a wavelength of exactly one image row, so that a column can be read from an id.

        The pairs after it turn slowly enough for matching by content.
        """
        return (self.grid / (2 * math.pi)) ** (16 // 2)

    def config(self) -> LlavaConfig:
        vision = CLIPVisionConfig(
            hidden_size=VISION_WIDTH,
            intermediate_size=4 * VISION_WIDTH,
            num_hidden_layers=self.vision_layers,
            num_attention_heads=VISION_HEADS,
            image_size=self.size,
            patch_size=PATCH_SIDE,
            projection_dim=64,
        )
        text = LlamaConfig(
            **self.text_options(),
            bos_token_id=self.vocabulary.ids["<s>"],
            tie_word_embeddings=False,
            rms_norm_eps=1e-5,
            rope_parameters={"rope_type": "default", "rope_theta": self.theta},
        )
        return LlavaConfig(
            vision_config=vision,
            text_config=text,
            image_token_index=self.vocabulary.ids[self.vocabulary.image],
            image_seq_length=self.span,
            vision_feature_layer=-1,
        )

    def start_tower(self, model: Network) -> None:
        """Patch embedding at the scale of its input; the learned position table starts as waves that close."""
        embed = model.model.vision_tower.embeddings
        embed.patch_embedding.weight.normal_(std=(3 * PATCH_SIDE * PATCH_SIDE) ** -0.5)
        table = embed.position_embedding.weight
        table.normal_(std=0.02)
        harmonics = self.grid // 2
        table[1:, : 4 * harmonics] += fourier_table(self.grid, harmonics)

    def encode(self, model: Network, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        tower, patches = model.model.vision_tower, cut_patches(batch["pixels"])
        embed, count = tower.embeddings, len(patches)
        cells = window_cells(patches.shape[1], batch["roll"], self.grid, wrap=True)
        hidden = F.linear(patches.flatten(1, 2), embed.patch_embedding.weight.flatten(1))
        hidden = hidden + F.embedding(cells + 1, embed.position_embedding.weight)
        cls = (embed.class_embedding + embed.position_embedding.weight[0]).expand(count, 1, -1).to(hidden.dtype)
        hidden = tower.pre_layrnorm(torch.cat([cls, hidden], 1))
        for layer in tower.encoder.layers:
            mixed = attend(*project_heads(layer.self_attn, layer.layer_norm1(hidden)))
            hidden = hidden + layer.self_attn.out_proj(mixed.transpose(1, 2).flatten(2))
            hidden = hidden + layer.mlp(layer.layer_norm2(hidden))
        return hidden[:, 1:], tower.post_layernorm(hidden[:, 0])

    def project(self, model: Network, patches: Tensor) -> Tensor:
        return model.model.multi_modal_projector(patches)

    def places(self, cells: Tensor) -> Tensor:
        return cells[:, None]

    def save_processor(self, folder: Path) -> None:
        """LLaVA-1.5's preprocessing at the model's size: pad to a square with the mean colour, resize, normalise."""
        image = LlavaImageProcessorPil(
            do_pad=True,
            size={"shortest_edge": self.size},
            do_center_crop=False,
            crop_size={"height": self.size, "width": self.size},
            **PIXELS,
        )
        processor = LlavaProcessor(
            image_processor=image,
            tokenizer=type(self).tokenizer(),
            patch_size=PATCH_SIDE,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
        )
        processor.save_pretrained(folder)
        image.save_pretrained(folder)


class TinyLlava(LlavaNetwork, TinyPictureModel):
    """It is asked about coloured shapes."""

    name = "llava"
    vocabulary = LLAVA
    tokenizer = staticmethod(partial(llava_tokenizer, LLAVA))
