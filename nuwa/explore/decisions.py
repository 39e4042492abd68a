"""What was decided about a picture or a video, as plain data: when each token left, its roles, scores, links and ids.

A video is a picture of one view a frame. Whole numbers in long rising rows are written as runs (`packed`).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

import torch
from torch import Tensor

from nuwa.explore.samples import Plain
from nuwa.pictures.geometry import WHOLE
from nuwa.pictures.traces import ImageTrace, StageTrace, VideoTrace, ViewTrace

STAYS = -1
"""The layer at which a token left that never did."""
HEAVIEST = 12
"""Links of a collector that are told, the heaviest."""


def plain_trace(trace: ImageTrace | VideoTrace, first: int) -> Plain:
    """A trace, of which the first picture is number ``first`` of the sample's.

    ``tokens``: how many there are; ``left``: the layer at which each one left, 0 before the LLM, `STAYS`; ``into``: the
    token that each one is part of in the end, -1 where it is gone; ``stages``: from which layer on, with the position
    ids of the tokens that are there, in rising order, by strategy and axis, and the scores by which tokens left there,
    None for those that had left before; ``start``: ids of the first token (a picture's only); ``views``: what they
    show, in which grid, and what the vision stage found there.
    """
    if isinstance(trace, VideoTrace):
        count, start = len(trace.into), None
        views = [_frame_view(trace, number, first) for number in range(len(trace.frames))]
    else:
        count, start = trace.layout.n_tokens, trace.start.tolist()
        views = [_image_view(view, first) | {"region": trace.region} for view in trace.views]
    return {
        "tokens": count,
        "left": layers_left(trace.stages, count),
        "into": packed(trace.into),
        "always": sorted({token for stage in trace.stages for token in stage.coordinates}),
        "start": start,
        "stages": [_plain_stage(stage) for stage in trace.stages],
        "views": views,
    }


def layers_left(stages: Sequence[StageTrace], count: int) -> list[int]:
    """The layer at which each of an image's ``count`` tokens left: it is not among those that the stage there kept.

    >>> layers_left([StageTrace(0, [2, 0], {}), StageTrace(8, [2], {})], 3)
    [8, 0, -1]
    """
    left = [STAYS] * count
    for stage in reversed(stages):
        gone = set(range(count)).difference(stage.kept)
        left = [stage.layer if token in gone else layer for token, layer in enumerate(left)]
    return left


def _plain_stage(stage: StageTrace) -> Plain:
    order = torch.tensor(stage.kept).argsort()
    ids = {name: [packed(axis[order].tolist()) for axis in values] for name, values in stage.ids.items()}
    return {"layer": stage.layer, "ids": ids, "scores": _plain_scores(stage.scores)}


def _plain_scores(scores: dict[str, Tensor]) -> dict[str, list[float | None]]:
    return {name: _rounded(values.tolist()) for name, values in scores.items()}


def _image_view(view: ViewTrace, picture: int) -> Plain:
    plain = _view(picture, view.view.grid, view.frame, view.view.tokens.tolist(), view.scores)
    if view.pillars is not None:
        plain["pillars"] = view.pillars
    plain["links"] = {str(collector): heaviest_links(weights) for collector, weights in view.weights.items()}
    return plain


def _frame_view(trace: VideoTrace, number: int, first: int) -> Plain:
    """A frame of tokens, which may stand for several of the video: the first."""
    picture = first + number * -(-len(trace.video.frames) // len(trace.frames))
    plain = _view(picture, trace.grid, WHOLE, trace.cells[number], trace.scores[number])
    segment = {} if trace.segments is None else {"segment": trace.segments[number]}
    return plain | {"time": round(trace.times[number], 2)} | segment


def _view(
    picture: int, grid: Sequence[int], frame: Sequence[float], tokens: list[int], scores: dict[str, Tensor]
) -> Plain:
    return {
        "picture": picture,
        "grid": list(grid),
        "frame": [round(side, 4) for side in frame],
        "cells": packed(tokens),
        "scores": _plain_scores(scores),
    }


def heaviest_links(weights: Tensor) -> list[int]:
    """Patches and their weights in thousandths, in turn, the heaviest first, of a collector's weights (N,).

    >>> heaviest_links(torch.tensor([0.25, 0.0, 0.7504]))
    [2, 750, 0, 250]
    """
    values, patches = weights.float().topk(min(HEAVIEST, len(weights)))
    pairs = zip(patches.tolist(), (1000 * values).round().long().tolist(), strict=True)
    return [number for patch, weight in pairs if weight > 0 for number in (patch, weight)]


def _rounded(values: Sequence[float]) -> list[float | None]:
    """Numbers with six digits, which hardly any two share; None for what JSON has no number for.

    >>> _rounded([0.12345678, float("-inf")])
    [0.123457, None]
    """
    return [float(f"{value:.6g}") if isfinite(value) else None for value in values]


def packed(values: list[int]) -> list[int] | dict[str, list[int]]:
    """Whole numbers as ``{"runs": [first, step, count, ...]}`` where that is shorter.

    >>> packed([5, 6, 7, 8, 9, 9, 9, 9, 9, 9]), packed([3, 1])
    ({'runs': [5, 1, 5, 9, 0, 5]}, [3, 1])
    """
    runs: list[int] = []
    begin = 0
    while begin < len(values):
        step = values[begin + 1] - values[begin] if begin + 1 < len(values) else 0
        end = begin + 1
        while end < len(values) and values[end] - values[end - 1] == step:
            end += 1
        runs += [values[begin], step, end - begin]
        begin = end
    return {"runs": runs} if len(runs) + 1 < len(values) else values
