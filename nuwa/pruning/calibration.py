"""Calibration: keys that stand for many tokens weigh as many in attention. Pure functions.

``size`` adds the logarithm of the number of tokens that a key stands for to its logits, in every layer: as many equal
keys would get as much attention (ToMe's proportional attention). ``restore`` is RESTORE's (ICML 2026;
cvlab-yonsei/RESTORE, commit 9b27e68): in layer 0 all visual tokens of an image are of one size, the number of its
tokens per token that entered; and where a prompt is read, what rotary embeddings alone take from distant keys is given
back. Both need a float mask of all queries by all keys: FlashAttention takes none, and sdpa leaves its fastest kernel.
Methods inside the LLM score with the attention that their layer would have without it.

Shape letters: B rows, Q queries, K keys, I images of a row, d head width.
"""

from __future__ import annotations

import torch
from torch import Tensor

CALIBRATIONS = ("none", "size", "restore")


def even_sizes(image: Tensor, patches: Tensor) -> Tensor:
    """Sizes (B, K) of keys of images ``image`` (B, K; -1: none) of ``patches`` (B, I) tokens, the same for all of one.

    >>> even_sizes(torch.tensor([[-1, 0, 0, 1, -1]]), torch.tensor([[6, 5]])).tolist()
    [[1.0, 3.0, 3.0, 5.0, 1.0]]
    """
    mine = image[..., None] == torch.arange(patches.shape[1], device=image.device)
    share = patches.to(image.device) / mine.sum(1).clamp(min=1)
    return torch.where(mine, share[:, None], 0).sum(-1).masked_fill(image < 0, 1)


def distance_bias(cos: Tensor, sin: Tensor, queries: int) -> Tensor:
    """log(2 - c) (B or 1, Q, K), c the mean cosine of the angles between the last ``queries`` keys and all.

    ``cos`` and ``sin`` (B or 1, K, d) are the rotary embeddings of the keys' positions. 0 for a key's own position.
    """
    cos, sin = cos.float(), sin.float()
    whole = (cos[:, :1].square() + sin[:, :1].square()).sum(-1, keepdim=True)
    mean = (cos[:, -queries:] @ cos.mT + sin[:, -queries:] @ sin.mT) / whole
    return (2 - mean).clamp(min=1).log()


def biased(mask: Tensor, bias: Tensor, dtype: torch.dtype) -> Tensor:
    """A layer's mask (B or 1, 1, Q, K), bool or additive, with a ``bias`` (B or 1, 1 or Q, K): additive, of ``dtype``.

    The only place where a mask becomes one of numbers.
    """
    lowest, bias = torch.finfo(dtype).min, bias[:, None].to(dtype)
    if mask.dtype == torch.bool:
        return torch.where(mask, bias, lowest).to(dtype)
    return torch.where(mask <= lowest / 2, lowest, mask + bias).to(dtype)
