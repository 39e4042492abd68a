"""What visual tokens cost an LLM: its sizes, floating-point operations and cache bytes. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a vision-language model that budgets, FLOPs and cache bytes depend on.

    ``image_tokens`` is the number of visual tokens of one image, None under dynamic resolution. ``attention`` are the
    layers with attention, None where all have it; in the others a token costs ``linear_flops`` in place of attention.
    """

    layers: int
    hidden: int
    intermediate: int
    kv_heads: int
    head_dim: int
    vision_hidden: int
    image_tokens: int | None = None
    attention: tuple[int, ...] | None = None
    linear_flops: float = 0.0

    @property
    def attention_layers(self) -> Sequence[int]:
        """The layers with attention, which are those that cache keys and values."""
        return range(self.layers) if self.attention is None else self.attention


def llm_flops(per_layer: Sequence[float], shape: ModelShape) -> float:
    """FLOPs of the LLM on visual tokens alone: sum over layers of 8SH^2 + 4S^2H + 4SHI (Nüwa paper, Appendix C).

    The paper's formula counts two of the three matrices of a gated feed-forward block; it is kept for comparison. A
    layer without attention costs ``shape.linear_flops`` a token in place of 8SH^2 + 4S^2H; that is not the paper's.
    """
    hidden, attending = shape.hidden, set(shape.attention_layers)
    total = 0.0
    for layer, s in enumerate(per_layer):
        mixing = 8 * s * hidden**2 + 4 * s**2 * hidden if layer in attending else s * shape.linear_flops
        total += mixing + 4 * s * hidden * shape.intermediate
    return total


def flashvid_flops(per_layer: Sequence[float], shape: ModelShape) -> float:
    """FLOPs of the LLM on visual tokens alone, as FlashVID's table of run times counts them.

    Sum over layers of 4SH^2 + 4SHK + 8S^2H + 6SHI, K the width of keys: with nominal counts of LLaVA-OneVision-7B's
    tokens it gives the 113.4, 22.4 and 8.6 TFLOPs that are printed. Pairs of tokens are counted twice, compared with
    `llm_flops`, and all three matrices of a gated block; TFLOPs of two papers cannot be compared.
    """
    hidden, keys = shape.hidden, shape.kv_heads * shape.head_dim
    linear = 4 * hidden**2 + 4 * hidden * keys + 6 * hidden * shape.intermediate
    return sum(s * linear + 8 * s**2 * hidden for s in per_layer)


def gated_delta_flops(hidden: int, key_heads: int, key_width: int, heads: int, width: int, kernel: int) -> float:
    """FLOPs of one token in a layer of linear attention by the gated delta rule (Qwen3.5), token by token. Ours.

    Projections to queries and keys (``key_heads`` of ``key_width``), values and gates (``heads`` of ``width``), two
    rates a head, and back; a convolution over ``kernel`` tokens; and seven operations on every entry of a head's state
    (``key_width`` x ``width``): one to decay it, two each to read, to write and to answer. Norms and activations are
    not counted, as in the paper's formula.
    """
    keys, values = key_heads * key_width, heads * width
    projections = 2 * hidden * (2 * keys + 3 * values + 2 * heads)
    return projections + 2 * kernel * (2 * keys + values) + 7 * heads * key_width * width


def attention_score_flops(queries: int, visual: float, hidden: int) -> float:
    """Metric overhead of attention scores: 2 * Sq * Sv * H (Nüwa paper, Appendix C)."""
    return 2 * queries * visual * hidden


def cosine_flops(visual: float, width: int) -> float:
    """Metric overhead of all-pairs cosine similarity: Sv^2 * D (Nüwa paper, Appendix C)."""
    return visual**2 * width


def norm_flops(visual: int, width: int) -> float:
    """Metric overhead of an L2 norm per token: 2 * Sv * H (Nüwa paper, Appendix C)."""
    return 2 * visual * width


def kv_cache_bytes(per_layer: Sequence[float], shape: ModelShape, bytes_per_value: int) -> float:
    """Bytes of keys and values that the visual tokens occupy in the cache. A layer without attention keeps none."""
    cached = [per_layer[layer] for layer in shape.attention_layers]
    return sum(2 * s * shape.kv_heads * shape.head_dim * bytes_per_value for s in cached)
