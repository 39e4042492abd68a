"""Position ids in an engine: of a prompt before its pictures are seen, and of their tokens once they are.

An engine gives text its ids when a request comes, and a picture's tokens theirs when they are computed, maybe chunk by
chunk. There are always three rows (M-RoPE): a token's time, row and column; on a model with one axis the second row is
the id. A picture's tokens have the id at which it begins in the first row, so that ids can be placed again.

Shape letters: N tokens of a prompt or picture, K tokens that stay, C axes of the model, D width of a feature.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nuwa.pruning.layout import Grid, coordinates
from nuwa.pruning.positions import median_ids, remap
from nuwa.pruning.prompt import ImagePlan

DIGIT = 256
"""Every number up to it is exact in bfloat16: an id travels as two of them."""
COLUMNS = 4
"""Columns that ids take beside a feature."""


@dataclass(frozen=True)
class PictureSpan:
    """Where a picture stands in a prompt of an engine: its first token, how many there are, and the ids it takes up."""

    start: int
    count: int
    ids: int


def own_ids(plan: ImagePlan, axes: int) -> Tensor:
    """Ids (C, N) of a picture's tokens in the unpruned prompt, from where it begins."""
    if axes == 1:
        return torch.arange(plan.layout.n_tokens)[None]
    places = coordinates(plan.layout.views[0].grid).long().T
    return torch.cat([torch.zeros_like(places[:1]), places])


def kept_ids(plan: ImagePlan, strategy: str, axes: int) -> Tensor:
    """Row and column ids (2, K) of the tokens that stay, from where their picture begins; one axis: ids and zeros."""
    own = own_ids(plan, axes)
    keep = torch.arange(own.shape[1]) if plan.keep is None else plan.keep
    stands = own
    if strategy == "median" and plan.members is not None:
        stands = median_ids(own[:, None], plan.members[None])[:, 0]
    kept, ones = stands[:, None, keep], torch.ones(1, len(keep), dtype=torch.bool)
    spans = torch.stack([own.amin(1), own.amax(1)])[..., None, None]
    ids, _ = remap(strategy, kept, torch.zeros_like(ones, dtype=torch.long), ones, spans, kept[..., 0])
    return torch.cat([ids[:, 0], torch.zeros_like(ids[:, 0])]) if axes == 1 else ids[1:, 0]


def ids_taken(grid: Grid, axes: int) -> int:
    """How far a picture of ``grid`` tokens moves the text behind it on."""
    return math.prod(grid) if axes == 1 else max(grid)


def prompt_ids(length: int, pictures: Sequence[PictureSpan], placed: bool) -> tuple[Tensor, int]:
    """Ids (3, N) of a prompt of ``length`` tokens, and the id of the first one generated.

    Text has its final ids; a picture's tokens have the id at which it begins. Unless they are ``placed`` later, all
    tokens count from 0.

    >>> prompt_ids(5, [PictureSpan(start=1, count=2, ids=7)], placed=True)[0][0].tolist()
    [0, 1, 1, 8, 9]
    """
    steps = torch.ones(length, dtype=torch.long)
    for picture in pictures if placed else ():
        steps[picture.start : picture.start + picture.count] = 0
        steps[picture.start + picture.count - 1] = picture.ids
    ends = steps.cumsum(0)
    return (ends - steps).expand(3, -1).clone(), int(ends[-1])


def place_ids(ids: Tensor, places: Tensor, kept: Tensor) -> Tensor:
    """Ids (3, N) of a prompt in which the tokens at ``places`` (K,) have the ids ``kept`` (2, K) of their picture."""
    placed = ids.clone()
    placed[1:, places] = ids[0, places] + kept.to(ids.device)
    return placed


def with_ids(features: Tensor, kept: Tensor) -> Tensor:
    """Features (K, D) with their ids (2, K) as further columns: (K, D + 4)."""
    kept = kept.T.to(features.device)
    return torch.cat([features, (kept // DIGIT).to(features), (kept % DIGIT).to(features)], 1)


def without_ids(features: Tensor) -> tuple[Tensor, Tensor]:
    """The features (K, D) and ids (2, K) that `with_ids` put together."""
    high, low = features[:, -COLUMNS:].long().chunk(2, 1)
    return features[:, :-COLUMNS], (high * DIGIT + low).T
