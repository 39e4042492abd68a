"""Which frames of a video a model sees, and the times that it is told."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nuwa.schema import FramesConfig

ASSUMED_RATE = 2.0
"""Frames a second where nobody says; Qwen-VL's processors assume the same."""
FEWEST = 4
"""Frames that `FramesConfig.fps` takes at least, if the video has them (qwen_vl_utils)."""


def frame_indices(total: int, rate: float, options: FramesConfig) -> list[int]:
    """The wanted ones of ``total`` frames that follow each other ``rate`` times a second, in order.

    ``count`` frames with ``linspace`` are those of LLaVA and lmms-eval, with ``arange`` those of transformers' Qwen2-VL
    processor; a video of fewer frames repeats some. ``fps`` takes an even number, as qwen_vl_utils does, at most
    ``count``, and repeats none.

    >>> frame_indices(300, 30.0, FramesConfig(4)), frame_indices(300, 30.0, FramesConfig(4, spacing="arange"))
    ([0, 99, 199, 299], [0, 75, 150, 225])
    >>> frame_indices(90, 30.0, FramesConfig(32, fps=2.0))
    [0, 18, 36, 53, 71, 89]
    """
    if not total:
        return []
    if options.fps is not None:
        wanted = min(max(total / rate * options.fps, FEWEST), options.count, total)
        return np.linspace(0, total - 1, max(int(wanted) // 2 * 2, 1)).round().astype(int).tolist()
    if options.spacing == "arange":
        return [number * total // options.count for number in range(options.count)]
    return np.linspace(0, total - 1, options.count, dtype=int).tolist()


def told_times(times: Sequence[float], options: FramesConfig) -> tuple[float, ...]:
    """The times in seconds that a model is told: those of the frames, from the video's start, or constant steps."""
    if options.time == "constant":
        return tuple(number / ASSUMED_RATE for number in range(len(times)))
    return tuple(times)
