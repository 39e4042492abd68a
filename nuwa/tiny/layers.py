"""The models' layers written out, as training runs them: with windows of a picture, packed questions and bfloat16."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

PATCH_SIDE = 4
"""Side of a patch of the towers in pixels."""
PIXEL_MEAN, PIXEL_STD = 0.5, 0.25

Network = Any
"""A stock transformers model or a part of one; what such a part holds has no declared type."""


def window_cells(side: int, origin: Tensor, grid: int, wrap: bool = False) -> Tensor:
    """Row-major ids (B, side * side) of a window at ``origin`` (B, 2) = (row, column) in a square ``grid``."""
    steps = torch.arange(side)
    rows, columns = steps + origin[:, :1], steps + origin[:, 1:]
    if wrap:
        rows, columns = rows % grid, columns % grid
    return (rows[:, :, None] * grid + columns[:, None, :]).flatten(1)


def cut_patches(pixels: Tensor) -> Tensor:
    """Normalised patches (B, rows, columns, 3 * 4 * 4), channels first, of ``pixels`` (B, S, S, 3) in [0, 1]."""
    batch, side = len(pixels), pixels.shape[1] // PATCH_SIDE
    patches = ((pixels - PIXEL_MEAN) / PIXEL_STD).view(batch, side, PATCH_SIDE, side, PATCH_SIDE, 3)
    return patches.permute(0, 1, 3, 5, 2, 4).reshape(batch, side, side, -1)


def project_heads(block: Network, hidden: Tensor) -> Iterator[Tensor]:
    """Queries, keys and values (B, H, T, head) of an attention block for ``hidden`` (B, T, d)."""
    for projection in (block.q_proj, block.k_proj, block.v_proj):
        yield projection(hidden).unflatten(-1, (-1, block.head_dim)).transpose(1, 2)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention written out: on a CPU the fused kernel's backward is slower."""
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    if mask is not None:
        scores = scores + mask
    return scores.softmax(-1, dtype=scores.dtype) @ value


def waves(angles: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine and sine (..., T, head) of rotary ``angles`` (..., T, head / 2), halves paired as in Llama."""
    angles = torch.cat([angles, angles], -1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def apply_rope(states: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate ``states`` (..., T, head) by what `waves` gives."""
    first, second = states.chunk(2, -1)
    return states * rope[0] + torch.cat([-second, first], -1) * rope[1]


def rms_norm(norm: Network, hidden: Tensor) -> Tensor:
    """A transformers RMSNorm in the dtype of ``hidden``."""
    return nn.functional.rms_norm(hidden, (hidden.shape[-1],), norm.weight.to(hidden.dtype), norm.variance_epsilon)
