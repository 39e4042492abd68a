"""The training forward of the language model: one image prefix shared by many questions.

Each question sits in its own slot: it sees the image prefix and itself, not the other questions, and all slots have
the same position ids, so that every question is answered exactly as it is when it is asked alone. Attention is written
out, because the auxiliary losses read its weights.
"""

from collections.abc import Callable, Collection
from functools import lru_cache

import torch
from torch import Tensor

from nuwa.tiny.base import TinyModel
from nuwa.tiny.layers import Network, apply_rope, attend, project_heads, rms_norm, waves

# Called with a layer's index and its attention weights from the question tokens: (B, H, M, L, P) to the image prefix
# and (B, H, M, L, L) to the question's own tokens.
Observer = Callable[[int, Tensor, Tensor], None]


def _attend_causal(query: Tensor, key: Tensor, value: Tensor, blocks: int = 2) -> Tensor:
    """Causal attention, block of queries by block, without the keys that lie after the block."""
    length = query.shape[2]
    mask, step = _causal_mask(length, query.dtype), -(-length // blocks)
    bounds = [(start, min(start + step, length)) for start in range(0, length, step)]
    parts = [attend(query[:, :, a:b], key[:, :, :b], value[:, :, :b], mask[a:b, :b]) for a, b in bounds]
    return torch.cat(parts, 2)


@lru_cache
def _causal_mask(length: int, dtype: torch.dtype) -> Tensor:
    return torch.full((length, length), -1e9).triu(1).to(dtype)


def packed_forward(
    tiny: TinyModel,
    model: Network,
    visual: Tensor,
    cells: Tensor,
    questions: Tensor,
    taps: Collection[int],
    observe: Observer | None = None,
) -> tuple[Tensor, dict[int, Tensor]]:
    """Language model over visual tokens ``visual`` (B, N, d) at grid ``cells`` (B, N) and ``questions`` (B, M, L).

    Returns the final states (B, M*L, d) of the question tokens, and all states (B, before + N + M*L, d) after each
    number of layers in ``taps``, which is fewer than the model has.
    """
    decoder, before = model.model.language_model, tiny.vocabulary.prefix
    (batch, slots, length), first = questions.shape, len(before)
    prefix = first + visual.shape[1]
    tokens = torch.cat([torch.tensor(before).expand(batch, -1), questions.flatten(1)], 1)
    words = decoder.embed_tokens(tokens).to(visual.dtype)
    hidden = torch.cat([words[:, :first], visual, words[:, first:]], 1)
    rope = waves(tiny.angles(cells, slots, length)[:, None], visual.dtype)
    states = {}
    for index, layer in enumerate(decoder.layers):
        last = index == len(decoder.layers) - 1
        query, key, value = project_heads(layer.self_attn, rms_norm(layer.input_layernorm, hidden))
        query, key = apply_rope(query, rope), apply_rope(key, rope)
        mixed = _attend_slots(query[:, :, prefix:], key, value, (prefix, slots, length), index, observe)
        if last:  # nothing after it reads the image prefix
            hidden = hidden[:, prefix:]
        else:
            image = _attend_causal(query[:, :, :prefix], key[:, :, :prefix], value[:, :, :prefix])
            mixed = torch.cat([image, mixed], 2)
        hidden = hidden + layer.self_attn.o_proj(mixed.transpose(1, 2).flatten(2))
        hidden = hidden + layer.mlp(rms_norm(layer.post_attention_layernorm, hidden))
        if index + 1 in taps:
            states[index + 1] = hidden
    return rms_norm(decoder.norm, hidden), states


def _attend_slots(
    query: Tensor, key: Tensor, value: Tensor, shape: tuple[int, int, int], index: int, observe: Observer | None
) -> Tensor:
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
