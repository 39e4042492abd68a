"""Left-packing and attention masks per backend. Pure functions.

Shape letters: B rows, L tokens before and P after packing, K cached keys.
"""

from __future__ import annotations

import torch
from torch import Tensor


def left_pack(keep: Tensor, order: Tensor | None, length: int) -> Tensor:
    """Index of the kept tokens of every row, in ``order``, padded on the left to ``length``, that of the longest row.

    >>> keep, order = torch.tensor([[True, False, True], [False, True, False]]), torch.tensor([[2, 1, 0], [0, 1, 2]])
    >>> left_pack(keep, order, 2)
    tensor([[2, 0],
            [2, 1]])

    Args:
        keep: (B, L) bool.
        order: (B, L) long, non-negative sort key of every token within its row; None: as they stand.
        length: the largest number of tokens that a row keeps.

    Returns:
        (B, length) long; dropped tokens fill the left of shorter rows, so that a pad's entry is a valid index too.
    """
    key = keep.byte() if order is None else order.masked_fill(~keep, -1)
    packed = key.argsort(dim=1, stable=True)
    return packed[:, packed.shape[1] - length :]


def gather_tokens(values: Tensor, index: Tensor) -> Tensor:
    """Take tokens ``index`` (B, P) out of ``values`` (B, L, ...)."""
    index = index.view(*index.shape, *[1] * (values.dim() - 2))
    return values.gather(1, index.expand(-1, -1, *values.shape[2:]))


def format_mask(implementation: str, valid: Tensor, queries: int, padded: bool, dtype: torch.dtype) -> Tensor | None:
    """The mask that a decoder layer of an attention backend expects for keys ``valid`` (B, K) bool.

    The last ``queries`` keys are the queries themselves. ``padded`` is False when ``valid`` is all True.

    Returns:
        flash: None or the 2-D mask; sdpa: None where its own causal rule is enough, else (B, 1, Q, K) bool;
        eager: the same as an additive float mask.

    Raises:
        NotImplementedError: a backend whose mask format is unknown here.
    """
    if "flash" in implementation:
        return valid if padded else None
    if implementation not in ("sdpa", "eager"):
        raise NotImplementedError(
            f"model.attention={implementation}: pruning inside the LLM supports eager, sdpa and flash attention"
        )
    keys = valid.shape[1]
    if implementation == "sdpa" and not padded and (queries == 1 or queries == keys):
        return None
    key = torch.arange(keys, device=valid.device)
    unseen = (key > key[-queries:, None])[None, None]
    if padded:
        unseen = unseen | ~valid[:, None, None]
    unseen = unseen.expand(len(valid), -1, -1, -1)
    if implementation == "sdpa":
        return ~unseen
    return valid.new_zeros(unseen.shape, dtype=dtype).masked_fill_(unseen, torch.finfo(dtype).min)
