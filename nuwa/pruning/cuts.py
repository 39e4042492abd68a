"""Where a video's scene changes: segments of frames that look alike. Pure functions; F frames of width D."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def frame_similarity(frames: Tensor) -> Tensor:
    """Cosine of each frame (F, D) with the next one: (F - 1,) float32; of a frame of zeros it is 0."""
    direction = functional.normalize(frames.float(), dim=-1)
    return (direction[:-1] * direction[1:]).sum(-1)


def segment_numbers(similarity: Tensor, threshold: float, segments: int = 1) -> Tensor:
    """DySeg: the number of each frame's segment (F,), from similarities (F - 1,) of neighbours.

    A segment ends where the similarity is below ``threshold``, and where it is lowest, the first of equals, until there
    are as many ``segments`` (or one for each frame). FlashVID (1d37422) and FastVID (a40a109) say the same in two ways.

    >>> import torch
    >>> similarity = torch.tensor([0.99, 0.5, 0.97, 0.98])
    >>> segment_numbers(similarity, 0.9).tolist(), segment_numbers(similarity, 0.9, segments=3).tolist()
    ([0, 0, 1, 1, 1], [0, 0, 1, 2, 2])
    """
    lowest = similarity.argsort(stable=True)[: max(segments - 1, 0)]
    ends = (similarity < threshold).index_fill(0, lowest, True)
    return functional.pad(ends.cumsum(0), (1, 0))
