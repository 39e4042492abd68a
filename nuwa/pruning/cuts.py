"""Where a video's scene changes: segments of frames that look alike. Pure functions.

Shape letters: B videos, F frames, N tokens of a frame, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

Segments = list[tuple[int, int]]
"""The first and the last frame of each."""


def frame_similarity(frames: Tensor) -> Tensor:
    """Cosine of each frame (F, D) with the next one: (F - 1,) float32; of a frame of zeros it is 0."""
    direction = functional.normalize(frames.float(), dim=-1)
    return (direction[:-1] * direction[1:]).sum(-1)


def segment_numbers(similarity: Tensor, threshold: float, segments: int = 1) -> Tensor:
    """DySeg: the number of each frame's segment (F,), from similarities (F - 1,) of neighbours.

    A segment ends where the similarity is below ``threshold``, and where it is lowest, the first of equals, until there
    are as many ``segments`` (or one for each frame). FlashVID (1d37422) and FastVID (a40a109) say the same in two ways.

    >>> similarity = torch.tensor([0.99, 0.5, 0.97, 0.98])
    >>> segment_numbers(similarity, 0.9).tolist(), segment_numbers(similarity, 0.9, segments=3).tolist()
    ([0, 0, 1, 1, 1], [0, 0, 1, 2, 2])
    """
    lowest = similarity.argsort(stable=True)[: max(segments - 1, 0)]
    ends = (similarity < threshold).index_fill(0, lowest, True)
    return functional.pad(ends.cumsum(0), (1, 0))


def still_runs(features: Tensor, threshold: float) -> Tensor:
    """For how many frames back each token is like the one before it at its place: (B, F, N, D) -> (B, F, N)."""
    direction = functional.normalize(features.float(), dim=-1)
    moved = (direction[:, 1:] * direction[:, :-1]).sum(-1) <= threshold
    frame = torch.arange(features.shape[1], device=features.device)[:, None]
    last = torch.where(functional.pad(moved, (0, 0, 1, 0), value=True), frame, 0).cummax(1).values
    return frame - last


def merged_tokens(runs: Tensor) -> list[list[list[int]]]:
    """[video][end][length - 1]: how many tokens go if so many frames up to ``end`` are a segment. Reads the device."""
    frames = torch.arange(runs.shape[1], device=runs.device)
    count = runs.new_zeros(*runs.shape[:2], len(frames)).scatter_add(2, runs, torch.ones_like(runs))
    return (count.flip(2).cumsum(2).flip(2) * frames).tolist()


def best_segments(gains: Sequence[Sequence[int]], longest: int | None = None) -> Segments:
    """The segments, of ``longest`` frames or fewer, in which most tokens go; of equals the shorter last one.

    >>> best_segments([[0], [0, 4], [0, 1, 0]])
    [(0, 1), (2, 2)]
    """
    best, starts = [0], []
    for end, gain in enumerate(gains):
        reach = [best[end - back] + gain[back] for back in range(min(end + 1, longest or len(gains)))]
        best.append(max(reach))
        starts.append(end - reach.index(best[-1]))
    segments, end = [], len(gains) - 1
    while end >= 0:
        segments.append((starts[end], end))
        end = starts[end] - 1
    return segments[::-1]
