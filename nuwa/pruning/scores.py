"""Attention rows that methods score tokens with, recomputed for those rows only. Pure functions.

No method switches a kernel to eager: the model keeps sdpa or FlashAttention, and the few rows that a score needs are
computed here from the layer's own projections.

Shape letters: B images or rows, H heads, Q queries, L tokens, D width, d head width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

CHUNK = 64
"""Queries of a portion, where all rows are needed and no map of all by all may exist."""


class Heads(NamedTuple):
    """Queries (B, H, Q, d) and keys (B, H', L, d) of an attention, H' dividing H, and what scales their products."""

    queries: Tensor
    keys: Tensor
    scale: float


HeadsOf = Callable[[nn.Module, Tensor, "tuple[Tensor, Tensor] | None", Tensor], Heads]
"""`nuwa.models.base.Family.queries_keys`: how a family's decoder layers make queries and keys of their input."""


def split_heads(x: Tensor, width: int) -> Tensor:
    """(B, L, H * width) -> (B, H, L, width)."""
    return x.unflatten(-1, (-1, width)).transpose(1, 2)


def softmax_rows(queries: Tensor, keys: Tensor, scale: float, allowed: Tensor | None = None) -> Tensor:
    """Attention weights (B, H, Q, L) in float32 of ``queries`` (B, H, Q, d) to ``keys`` (B, H', L, d), H' dividing H.

    ``allowed`` broadcasts to (B, 1, Q, L); False entries get weight 0.
    """
    batch, heads, rows, width = queries.shape
    grouped = queries.float().reshape(batch, keys.shape[1], -1, width)
    logits = (grouped @ keys.float().transpose(-1, -2)).view(batch, heads, rows, -1) * scale
    if allowed is not None:
        logits = logits.masked_fill(~allowed, float("-inf"))
    return logits.softmax(-1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary embeddings ``cos``, ``sin`` (B or 1, L, r) to the first r channels of ``x`` (B, H, L, d).

    Their halves are rotated as in Llama.
    """
    turned, rest = x.split([cos.shape[-1], x.shape[-1] - cos.shape[-1]], -1)
    first, second = turned.chunk(2, -1)
    turned = turned * cos[:, None] + torch.cat([-second, first], -1) * sin[:, None]
    return torch.cat([turned, rest], -1) if rest.shape[-1] else turned


def received_attention(queries: Tensor, keys: Tensor, scale: float, chunk: int = CHUNK) -> Tensor:
    """Attention that each of L keys receives in every head, summed over queries: two (B, H, L, d) -> (B, H, L) float32.

    Queries go through in portions of ``chunk``, so that no L x L map of all heads exists.
    """
    total = queries.new_zeros(queries.shape[:3], dtype=torch.float32)
    for part in queries.split(chunk, dim=2):
        total += softmax_rows(part, keys, scale).sum(2)
    return total


def llm_attention_rows(
    queries_keys: HeadsOf,
    layer: nn.Module,
    hidden: Tensor,
    embeddings: tuple[Tensor, Tensor],
    valid: Tensor,
    query: Tensor,
    rotary: bool = True,
    among: Tensor | None = None,
    sees: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Softmax attention rows (B, H, Q, L) float32 of a decoder layer, for the positions ``query`` (Q,).

    Args:
        queries_keys: how the model's family makes queries and keys.
        layer: the decoder layer.
        hidden: (B, L, D) input of the layer.
        embeddings: cos and sin of the layer's positions, each (B or 1, L, d).
        valid: (B, L) bool, False on padding.
        query: (Q,) positions in the sequence.
        rotary: False leaves the rotary embeddings out.
        among: (B, L) bool, the tokens that the softmax runs over; a row that has none of them gets NaN.
        sees: which tokens (B, Q, L) bool queries see, where that is more or less than what stands before them.
    """
    heads = queries_keys(layer, hidden, embeddings if rotary else None, query)
    among = valid if among is None else valid & among
    # on the layer's device, if a model is spread over several
    query, among = query.to(heads.keys.device), among.to(heads.keys.device)
    causal = (torch.arange(hidden.shape[1], device=query.device)[None] <= query[:, None])[None]
    seen = causal if sees is None else sees(query.to(valid.device)).to(query.device)
    return softmax_rows(*heads, seen[:, None] & among[:, None, None]).to(hidden.device)


def rotary_kernel(embeddings: tuple[Tensor, Tensor], query: Tensor) -> Tensor:
    """What rotary embeddings alone make of distances: (B or 1, Q, L) for the positions ``query`` (Q,) to all.

    The scaled dot product of queries and keys whose every entry is one.
    """
    cos, sin = embeddings
    ones = rotate(torch.ones_like(cos)[:, None], cos, sin)[:, 0].float()
    return ones[:, query] @ ones.mT / cos.shape[-1] ** 0.5


def transition_weights(entered: Tensor, left: Tensor, valid: Tensor) -> Tensor:
    """How much a block turns and stretches each token: ``entered`` and ``left`` (B, L, D), ``valid`` (B, L) -> (B, L).

    The ratio of norms, times the softmax over the valid tokens of one minus the cosine.
    """
    entered, left = entered.float(), left.float()
    turn = 1 - functional.cosine_similarity(entered, left, dim=-1)
    stretch = left.norm(dim=-1) / entered.norm(dim=-1)
    return torch.where(valid, stretch * turn.masked_fill(~valid, float("-inf")).softmax(-1), 0)


def llm_values(values: Callable[[nn.Module, Tensor], Tensor], layer: nn.Module, hidden: Tensor) -> Tensor:
    """Values of a decoder layer, heads concatenated: (B, L, D) -> (B, L, heads * width)."""
    return values(layer, hidden).to(hidden.device)


def llm_keys(queries_keys: HeadsOf, layer: nn.Module, hidden: Tensor, embeddings: tuple[Tensor, Tensor]) -> Tensor:
    """Rotated keys of a decoder layer, heads concatenated: (B, L, D) -> (B, L, heads * width)."""
    nobody = torch.empty(0, dtype=torch.long, device=hidden.device)
    return queries_keys(layer, hidden, embeddings, nobody).keys.transpose(1, 2).flatten(2).to(hidden.device)
