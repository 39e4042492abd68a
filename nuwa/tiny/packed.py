"""The training forward: one image prefix shared by many questions, and a position table rolled at random.

Each question sits in its own slot: it sees the image prefix and itself, not the other questions, and all slots have
the same position ids, so that every question is answered exactly as it is when it is asked alone. Attention is written
out, because on a CPU the fused kernel's backward is slower, and because the auxiliary losses read its weights.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from nuwa.tiny.model import FIRST_PATCH, GRID, ROPE_THETA
from nuwa.tiny.scenes import PATCH
from nuwa.tiny.vocabulary import PREFIX_IDS

# Called with a layer's index and its attention weights from the question tokens: (B, H, M, L, P) to the image prefix
# and (B, H, M, L, L) to the question's own tokens.
Observer = Callable[[int, Tensor, Tensor], None]


@dataclass
class Packed:
    """``text`` (B, M*L, d): final states of the question tokens; ``states``: all states after some of the layers."""

    text: Tensor
    states: dict[int, Tensor]
    prefix: int

    def visual(self, tap: int) -> Tensor:
        """Image states (B, N, d) after ``tap`` layers."""
        return self.states[tap][:, FIRST_PATCH : self.prefix]

    def questions(self, tap: int) -> Tensor:
        """States (B, M*L, d) of the question tokens after ``tap`` layers."""
        return self.states[tap][:, self.prefix :]


def cell_ids(side: int, origin: Tensor, wrap: bool = False) -> Tensor:
    """Row-major ids (B, side*side) of a window at ``origin`` (B, 2) = (row, column) in the full grid."""
    steps = torch.arange(side)
    rows, columns = steps + origin[:, :1], steps + origin[:, 1:]
    if wrap:
        rows, columns = rows % GRID, columns % GRID
    return (rows[:, :, None] * GRID + columns[:, None, :]).flatten(1)


def encode_image(model: LlavaForConditionalGeneration, pixels: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
    """Tower on ``pixels`` (B, S, S, 3) in [0, 1] with table rows ``cells`` (B, N): patches (B, N, d) and CLS (B, d)."""
    tower = model.model.vision_tower
    embed, batch, side = tower.embeddings, len(pixels), pixels.shape[1] // PATCH
    patches = ((pixels - 0.5) / 0.25).view(batch, side, PATCH, side, PATCH, 3).permute(0, 1, 3, 5, 2, 4)
    hidden = F.linear(patches.reshape(batch, side * side, -1), embed.patch_embedding.weight.flatten(1))
    hidden = hidden + F.embedding(cells + 1, embed.position_embedding.weight)
    cls = (embed.class_embedding + embed.position_embedding.weight[0]).expand(batch, 1, -1).to(hidden.dtype)
    hidden = tower.pre_layrnorm(torch.cat([cls, hidden], 1))
    for layer in tower.encoder.layers:
        hidden = hidden + _tower_attention(layer.self_attn, layer.layer_norm1(hidden))
        hidden = hidden + layer.mlp(layer.layer_norm2(hidden))
    return hidden[:, 1:], tower.post_layernorm(hidden[:, 0])


def _tower_attention(block, hidden: Tensor) -> Tensor:
    query, key, value = (
        proj(hidden).unflatten(-1, (block.num_heads, -1)).transpose(1, 2)
        for proj in (block.q_proj, block.k_proj, block.v_proj)
    )
    return block.out_proj(_attend(query, key, value).transpose(1, 2).flatten(2))


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    if mask is not None:
        scores = scores + mask
    return scores.softmax(-1, dtype=scores.dtype) @ value


def _attend_causal(query: Tensor, key: Tensor, value: Tensor, blocks: int = 2) -> Tensor:
    """Causal attention, block of queries by block, without the keys that lie after the block."""
    length = query.shape[2]
    mask, step = _causal_mask(length, query.dtype), -(-length // blocks)
    bounds = [(start, min(start + step, length)) for start in range(0, length, step)]
    parts = [_attend(query[:, :, a:b], key[:, :, :b], value[:, :, :b], mask[a:b, :b]) for a, b in bounds]
    return torch.cat(parts, 2)


@lru_cache
def _causal_mask(length: int, dtype: torch.dtype) -> Tensor:
    return torch.full((length, length), -1e9).triu(1).to(dtype)


def packed_forward(
    model: LlavaForConditionalGeneration,
    patches: Tensor,
    cells: Tensor,
    questions: Tensor,
    taps: Collection[int],
    observe: Observer | None = None,
) -> Packed:
    """Language model over tower features ``patches`` (B, N, dv) at grid ``cells`` (B, N) and ``questions`` (B, M, L).

    ``taps``: numbers of layers after which the states are handed out, fewer than the model has.
    """
    decoder = model.model.language_model
    visual = model.model.multi_modal_projector(patches)
    (batch, slots, length), prefix = questions.shape, FIRST_PATCH + visual.shape[1]
    tokens = torch.cat([torch.tensor(PREFIX_IDS).expand(batch, -1), questions.flatten(1)], 1)
    words = decoder.embed_tokens(tokens).to(visual.dtype)
    hidden = torch.cat([words[:, :FIRST_PATCH], visual, words[:, FIRST_PATCH:]], 1)
    rope = _rope(_position_ids(cells, slots, length), visual.dtype)
    states = {}
    for index, layer in enumerate(decoder.layers):
        last = index == len(decoder.layers) - 1
        query, key, value = _decoder_qkv(layer.self_attn, _norm(layer.input_layernorm, hidden), rope)
        mixed = _attend_slots(query[:, :, prefix:], key, value, (prefix, slots, length), index, observe)
        if last:  # nothing after it reads the image prefix
            hidden = hidden[:, prefix:]
        else:
            head = (tensor[:, :, :prefix] for tensor in (query, key, value))
            mixed = torch.cat([_attend_causal(*head), mixed], 2)
        hidden = hidden + layer.self_attn.o_proj(mixed.transpose(1, 2).flatten(2))
        hidden = hidden + layer.mlp(_norm(layer.post_attention_layernorm, hidden))
        if index + 1 in taps:
            states[index + 1] = hidden
    return Packed(_norm(decoder.norm, hidden), states, prefix)


def _position_ids(cells: Tensor, slots: int, length: int) -> Tensor:
    """(B, P + M*L) rotary ids: prefix, image cells in the full grid, and the same ids for every question slot."""
    batch = len(cells)
    text = FIRST_PATCH + GRID**2 + torch.arange(length).repeat(slots)
    return torch.cat([torch.arange(FIRST_PATCH).expand(batch, -1), FIRST_PATCH + cells, text.expand(batch, -1)], 1)


def _rope(ids: Tensor, dtype: torch.dtype, width: int = 32) -> tuple[Tensor, Tensor]:
    angles = ids[:, None, :, None].float() * ROPE_THETA ** (-torch.arange(0, width, 2).float() / width)
    angles = torch.cat([angles, angles], -1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def _decoder_qkv(block, hidden: Tensor, rope: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Rotated queries and keys, and values, each (B, H, T, head)."""
    query, key, value = (
        proj(hidden).unflatten(-1, (-1, block.head_dim)).transpose(1, 2)
        for proj in (block.q_proj, block.k_proj, block.v_proj)
    )
    return _rotate(query, rope), _rotate(key, rope), value


def _rotate(states: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    first, second = states.chunk(2, -1)
    return states * rope[0] + torch.cat([-second, first], -1) * rope[1]


def _norm(norm, hidden: Tensor) -> Tensor:
    return F.rms_norm(hidden, (hidden.shape[-1],), norm.weight.to(hidden.dtype), norm.variance_epsilon)


def _attend_slots(query, key, value, shape, index, observe) -> Tensor:
    """Attention of the question tokens (B, H, M*L, head) to the image prefix and, causally, to their own slot."""
    prefix, slots, length = shape
    query = (query * query.shape[-1] ** -0.5).unflatten(2, (slots, length))
    own_key, own_value = (tensor[:, :, prefix:].unflatten(2, (slots, length)) for tensor in (key, value))
    to_prefix = query.flatten(2, 3) @ key[:, :, :prefix].transpose(-1, -2)
    to_own = query @ own_key.transpose(-1, -2) + _causal_mask(length, query.dtype)
    scores = torch.cat([to_prefix, to_own.flatten(2, 3)], -1)
    weights = scores.softmax(-1, dtype=scores.dtype)
    to_prefix, to_own = weights[..., :prefix], weights[..., prefix:].unflatten(2, (slots, length))
    if observe is not None:
        observe(index, to_prefix.unflatten(2, (slots, length)), to_own)
    return to_prefix @ value[:, :, :prefix] + (to_own @ own_value).flatten(2, 3)
