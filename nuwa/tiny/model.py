"""The tiny LLaVA: a stock ``LlavaForConditionalGeneration`` of 16 thin layers behind a CLIP tower on a 24 x 24 grid."""

import math

import torch
from torch import nn
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from nuwa.tiny.scenes import IMAGE_SIZE, PATCH
from nuwa.tiny.vocabulary import BOS, EOS, IMAGE, PAD, PREFIX_IDS, VOCABULARY

GRID = IMAGE_SIZE // PATCH
FIRST_PATCH = len(PREFIX_IDS)  # position id of the first image token
VISION_WIDTH, VISION_LAYERS = 96, 4
WIDTH, LAYERS, HEADS, MLP_WIDTH = 128, 16, 4, 256
# The third rotary pair then has a wavelength of exactly one image row (24 ids), so that a column can be read from an
# id, while the pairs after it turn slowly enough for matching by content.
ROPE_THETA = (GRID / (2 * math.pi)) ** (WIDTH // HEADS // 4)


def build_config() -> LlavaConfig:
    """Configuration of the tiny LLaVA."""
    vision = CLIPVisionConfig(
        hidden_size=VISION_WIDTH,
        intermediate_size=4 * VISION_WIDTH,
        num_hidden_layers=VISION_LAYERS,
        num_attention_heads=VISION_WIDTH // 32,
        image_size=IMAGE_SIZE,
        patch_size=PATCH,
        projection_dim=64,
    )
    text = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=WIDTH,
        intermediate_size=MLP_WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=1024,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
        tie_word_embeddings=False,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=IMAGE,
        image_seq_length=GRID**2,
        projector_hidden_act="gelu",
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
    )


def build_model(seed: int) -> LlavaForConditionalGeneration:
    """A freshly initialised tiny LLaVA."""
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(build_config())
    _rescale(model)
    return model


@torch.no_grad()
def _rescale(model: LlavaForConditionalGeneration) -> None:
    """Draw the weights anew: the stock standard deviation of 0.02 is too small for a width of 100."""
    for name, weight in model.named_parameters():
        if weight.ndim == 2 and "embed" not in name:
            nn.init.normal_(weight, std=0.8 * weight.shape[1] ** -0.5)
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            weight.mul_((2 * LAYERS) ** -0.5)
        if name.endswith(("out_proj.weight", "fc2.weight")):
            weight.mul_((2 * VISION_LAYERS) ** -0.5)
    tower = model.model.vision_tower
    tower.embeddings.patch_embedding.weight.normal_(std=(3 * PATCH * PATCH) ** -0.5)
    table = tower.embeddings.position_embedding.weight
    table.normal_(std=0.02)
    table[1:, : VISION_WIDTH // 2] += _fourier_table(harmonics=VISION_WIDTH // 8)
    model.model.language_model.embed_tokens.weight.normal_(std=0.5)


def _fourier_table(harmonics: int) -> torch.Tensor:
    """(576, 4 x harmonics) waves over rows and columns that close on themselves; where the learned table starts."""
    cells, waves = torch.arange(GRID**2), torch.arange(1, harmonics + 1)
    columns = []
    for axis in (cells // GRID, cells % GRID):
        angle = 2 * math.pi * axis[:, None] * waves / GRID
        columns += [angle.sin() * 1.2 / waves.sqrt(), angle.cos() * 1.2 / waves.sqrt()]
    return torch.cat(columns, 1)
