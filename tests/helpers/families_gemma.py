"""Gemma 3 in the engine's matrix: a small random model, and decoding with its masks written out."""

from __future__ import annotations

from functools import cache

import torch
from helpers.family import Family
from helpers.support import IMAGE, VOCABULARY, _lay_out, boosted, pixels, positions_of, small_tower
from torch import Tensor
from transformers import Gemma3Config, Gemma3ForConditionalGeneration, SiglipVisionConfig

WINDOW = 24


class Gemma3(Family):
    """Pictures of 4 x 4 tokens between a start and an end token; layers 1 and 4 of 6 see all, the others a window."""

    name = "gemma3"
    before, after = (6,), (7,)
    shares_beginnings = False

    @staticmethod
    @cache
    def model(attention: str = "sdpa", dtype: torch.dtype = torch.float32):
        return random_gemma(attention, dtype)

    def cells(self, picture: int):
        return [(0, row, column) for row in range(4) for column in range(4)]

    def pictures(self, *numbers: int) -> dict[str, Tensor]:
        return {"pixel_values": pixels(4, side=32)[list(numbers)]}

    def finish(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return inputs | {"token_type_ids": (inputs["input_ids"] == IMAGE).long()}


def random_gemma(attention: str = "sdpa", dtype: torch.dtype = torch.float32, window: int = 512):
    """8 x 8 patches pooled to 4 x 4 tokens, boosted random weights."""
    torch.manual_seed(0)
    text = {"vocab_size": VOCABULARY, "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 6}
    text |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "query_pre_attn_scalar": 16}
    kinds = ["full_attention" if layer in (1, 4) else "sliding_attention" for layer in range(6)]
    config = Gemma3Config(
        vision_config=small_tower(SiglipVisionConfig, image_size=32, vision_use_head=False).to_dict(),
        text_config={**text, "sliding_window": window, "layer_types": kinds, "max_position_embeddings": 512},
        mm_tokens_per_image=16,
        image_token_index=IMAGE,
        boi_token_index=6,
        eoi_token_index=7,
        tie_word_embeddings=False,
    )
    config._attn_implementation = attention
    model = Gemma3ForConditionalGeneration(config)
    with torch.no_grad():
        model.model.multi_modal_projector.mm_input_projection_weight.normal_()
        model.lm_head.weight[IMAGE] = 0  # a generated placeholder would want a picture when decoding without cache
        for name, weight in model.named_parameters():
            if "_norm" in name and "language_model" in name:
                weight.uniform_(-0.5, 1)
    return boosted(model, 3.0).eval().to(dtype)


@torch.no_grad()
def plain_gemma_decode(model, ids, features, keep, stages, strategy: str, steps: int):
    """As `support.plain_decode`, with Gemma's norms and masks: no hooks, no cache, every mask entry by itself."""
    lm, sizes = model.model.language_model, [len(image) for image in features]
    entries, vectors = _lay_out(model, ids, features, keep)
    decided, generated, logits = {}, [], []
    for _ in range(steps):
        hidden = torch.cat([vectors, lm.embed_tokens(torch.tensor(generated, dtype=torch.long))])
        alive = entries + [(len(ids) + i, -1, -1) for i in range(len(generated))]
        for number, layer in enumerate(lm.layers):
            if number in stages:
                if number not in decided:
                    decided[number] = {alive[i][0] for i in stages[number](hidden, alive)}
                stay = [i for i, e in enumerate(alive) if e[0] in decided[number] or e[0] >= len(ids)]
                hidden, alive = hidden[stay], [alive[i] for i in stay]
            position = torch.tensor(positions_of(strategy, alive, sizes))
            hidden = _gemma_layer(lm, layer, lm.config.layer_types[number], hidden, position, alive)
        logits.append(model.lm_head(lm.norm(hidden[-1])))
        generated.append(int(logits[-1].argmax()))
    return generated, torch.stack(logits)


def _gemma_layer(lm, layer, kind: str, hidden: Tensor, position: Tensor, alive) -> Tensor:
    attention, x, half = layer.self_attn, layer.input_layernorm(hidden), layer.self_attn.head_dim // 2
    theta = lm.config.rope_parameters[kind]["rope_theta"]
    angle = position[:, None].float() * theta ** (-torch.arange(half).float() / half)
    cos, sin = angle.cos(), angle.sin()

    def heads(projection, norm=None):
        y = projection(x).view(len(x), -1, attention.head_dim).transpose(0, 1)
        if norm is None:
            return y
        a, b = norm(y).split(half, -1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    q, k, v = (
        heads(attention.q_proj, attention.q_norm),
        heads(attention.k_proj, attention.k_norm),
        heads(attention.v_proj),
    )
    k, v = (part.repeat_interleave(q.shape[0] // part.shape[0], 0) for part in (k, v))
    seen = torch.tensor([[_sees(kind, i, a, j, b) for j, b in enumerate(alive)] for i, a in enumerate(alive)])
    weights = (q @ k.transpose(1, 2) / attention.head_dim**0.5).masked_fill(~seen, float("-inf")).softmax(-1)
    out = attention.o_proj((weights @ v).transpose(0, 1).reshape(len(x), -1))
    hidden = hidden + layer.post_attention_layernorm(out)
    return hidden + layer.post_feedforward_layernorm(layer.mlp(layer.pre_feedforward_layernorm(hidden)))


def _sees(kind: str, row: int, query, column: int, key) -> bool:
    """Whether a token (place, image or -1, token) sees another: what is before it or of its picture, in its window."""
    near = kind == "full_attention" or query[0] - key[0] < WINDOW
    return near and (column <= row or key[1] == query[1] >= 0)
