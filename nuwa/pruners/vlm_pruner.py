"""VLM-Pruner (arXiv 2512.02700; code Casey-bit/VLMPruner, commit 556a9142): unlike tokens, the near ones first.

On entry of an early layer a few pivots are spread out over the keys. Then tokens are taken that are unlike all taken
ones, where likeness counts for more the further away a token lies, so that the choice grows outwards from the pivots
(buffering for spatial sparsity). Dropped tokens are merged into the kept one that they resemble most.

Shape letters: R images, n their tokens, K kept ones, D width; all images of a batch are handled at once.
"""

from __future__ import annotations

import math
from collections.abc import Set
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from nuwa.pruners.base import LLMContext, LLMDecision, LLMPruner, MethodInfo, require
from nuwa.pruners.image_rows import ImageRows
from nuwa.pruning.flops import ModelShape, cosine_flops, norm_flops
from nuwa.pruning.masks import gather_tokens
from nuwa.pruning.schedules import Schedule
from nuwa.pruning.selection import strongest

CHANNELS, STEP = 256, 0.1
"""Channels that similarity is computed on, and what the threshold grows by in a pass."""


def spread_pivots(keys: Tensor, there: Tensor, count: int, limit: Tensor) -> Tensor:
    """Mark the token with the largest L1 norm, then those furthest from all marked: keys (R, n, D) -> (R, n) bool.

    ``count`` of them, but no more than ``limit`` (R,).
    """
    score = keys.norm(p=1, dim=-1).masked_fill(~there, float("-inf"))
    marked, nearest = torch.zeros_like(there), torch.full_like(score, float("inf"))
    for number in range(count):
        pivot = score.argmax(1, keepdim=True)
        marked = marked.scatter(1, pivot, marked.gather(1, pivot) | (limit > number)[:, None])
        nearest = nearest.minimum((keys - gather_tokens(keys, pivot)).norm(dim=-1))
        score = nearest.masked_fill(~there | marked, float("-inf"))
    return marked & there


def varied_channels(states: Tensor, there: Tensor, count: int = CHANNELS) -> Tensor:
    """Unit vectors of the channels that vary most over an image: (R, n, D) -> (R, n, ``count``)."""
    present = there[..., None]
    mean = (states * present).sum(1, keepdim=True) / present.sum(1, keepdim=True).clamp(min=1)
    variance = ((states - mean).square() * present).sum(1)
    best = strongest(variance, count)[:, None].expand(-1, states.shape[1], -1)
    return functional.normalize(states.gather(2, best), dim=-1)


@dataclass
class Growing:
    """A choice (R, n) that grows: what is ``chosen``, and for each token its nearest chosen ones.

    ``like``: the largest cosine, and ``distance``: the smallest distance on the grid, to any chosen token.
    """

    direction: Tensor
    frame: Tensor
    chosen: Tensor
    like: Tensor = field(init=False)
    distance: Tensor = field(init=False)

    def __post_init__(self) -> None:
        shape, kind = self.chosen.shape, self.direction
        self.like, self.distance = kind.new_full(shape, float("-inf")), kind.new_full(shape, float("inf"))

    def add(self, index: Tensor, accepted: Tensor) -> None:
        """Choose those of the tokens ``index`` (R, m) that are ``accepted`` (R, m) bool."""
        cosine = gather_tokens(self.direction, index) @ self.direction.mT
        apart = torch.cdist(gather_tokens(self.frame, index), self.frame, compute_mode="donot_use_mm_for_euclid_dist")
        taken = accepted[..., None]
        self.like = self.like.maximum(cosine.masked_fill(~taken, float("-inf")).amax(1))
        self.distance = self.distance.minimum(apart.masked_fill(~taken, float("inf")).amin(1))
        self.chosen = self.chosen.scatter(1, index, self.chosen.gather(1, index) | accepted)

    def likeness(self, weight: float) -> Tensor:
        """Largest cosine to a chosen token, times 1 + ``weight`` x the distance to the nearest one: (R, n)."""
        return self.like * (1 + weight * self.distance)


@dataclass
class VLMPruner(LLMPruner):
    """Grow a choice of unlike tokens outwards from ``pivots``, then merge what is left.

    A pass goes through the candidates, the least like first, in batches of ``batch``, and takes those whose likeness is
    below the threshold: ``threshold`` in the first pass, 0.1 more in each that follows. ``distance`` is what the
    distance (in diagonals of the grid) adds to likeness; ``own`` the share of a kept token in its merged state.

    The released code stops when a pass finds nothing, with fewer tokens than asked (``variant: release``); here passes
    go on until the budget is spent. ``grid: patch`` takes the columns of a grid twice as wide and high as that of the
    tokens, as the released file for Qwen2-VL does; the one for LLaVA has 24 x 24 fixed. Views of one image lie upon
    each other. Merged states stand where the kept token stands.
    """

    pivots: int = 4
    threshold: float = 0.8
    batch: int = 16
    distance: float = 0.5
    own: float = 0.3
    variant: Literal["paper", "release"] = "paper"
    grid: Literal["merged", "patch"] = "merged"

    name: ClassVar[str] = "vlm_pruner"
    needs: ClassVar[Set[str]] = {"previous"}
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="arXiv 2512.02700",
        source="Casey-bit/VLMPruner@556a9142",
        signal="dissimilarity of hidden states, weighted by distance on the grid",
        merges=True,
        counts="ours: solved for the average (the authors count from layer 2 on)",
        nominal=Schedule(576, ((2, 64),)),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.pivots >= 1, "pivots", "1 or more", self.pivots)
        require(self.batch >= 1, "batch", "1 token or more", self.batch)
        require(self.distance >= 0, "distance", "0 or more", self.distance)
        require(0 <= self.own <= 1, "own", "a share in [0, 1]", self.own)

    @property
    def counts_by_itself(self) -> bool:
        return self.variant == "release"

    def prune_llm(self, context: LLMContext, keep: Tensor) -> LLMDecision:
        rows = ImageRows.of(context)
        states, keys = rows.gather(context.hidden), rows.gather(context.previous.keys()).float()
        limit = keep.flatten().minimum(rows.there.sum(1))
        direction = varied_channels(states.float(), rows.there, min(CHANNELS, states.shape[-1]))
        frame = rows.frame(context, unit=2 if self.grid == "patch" else 1)
        growing = Growing(direction, frame, torch.zeros_like(rows.there))
        pivots = spread_pivots(keys, rows.there, self.pivots, limit)
        growing.add(*first_of(pivots, self.pivots))
        self.grow(growing, rows.there, limit)
        merged, into = merge_dropped(states, direction, growing.chosen, rows.there, int(limit.max()), self.own)
        place = rows.place.gather(1, into.clamp(min=0)).where(into >= 0, -1)
        members = rows.spread(place, torch.full_like(context.image, -1))
        return LLMDecision(rows.mark(growing.chosen), rows.spread(merged, context.hidden), members=members)

    def grow(self, growing: Growing, there: Tensor, limit: Tensor) -> None:
        """Add tokens pass by pass until each image has ``limit`` (R,). The device is asked once a pass."""
        threshold, active = self.threshold, growing.chosen.sum(1) < limit
        for _ in range(math.ceil((1 + self.distance - threshold) / STEP) + 2):
            before = growing.chosen.sum(1)
            self.one_pass(growing, there & active[:, None], limit, threshold)
            after = growing.chosen.sum(1)
            active = active & (after < limit)
            if self.variant == "release":
                active = active & (after > before)
            if not bool(active.any()):
                return
            threshold += STEP

    def one_pass(self, growing: Growing, open_to: Tensor, limit: Tensor, threshold: float) -> None:
        """Go through the candidates among ``open_to`` (R, n) once. If the first batch yields none, none is taken."""
        candidate = open_to & ~growing.chosen
        order = growing.likeness(self.distance).masked_fill(~candidate, float("inf")).argsort(dim=1, stable=True)
        for start in range(0, order.shape[1], self.batch):
            index = order[:, start : start + self.batch]
            mine = candidate.gather(1, index)
            value = growing.likeness(self.distance).gather(1, index).masked_fill(~mine, float("inf"))
            accepted, room = value < threshold, limit - growing.chosen.sum(1)
            rank = value.argsort(dim=1, stable=True).argsort(dim=1)
            full = accepted.sum(1) > room
            accepted = torch.where(full[:, None], mine & (rank < room[:, None]), accepted)
            growing.add(index, accepted)
            if start == 0:
                candidate = candidate & accepted.any(1, keepdim=True)

    def metric_flops(self, n_tokens: int, shape: ModelShape) -> float:
        """Distances to the pivots, all pairs on the chosen channels, on the grid, and kept against dropped."""
        kept = self.schedule(n_tokens, shape.layers).per_layer(shape.layers)[-1]
        pivots = self.pivots * norm_flops(n_tokens, shape.kv_heads * shape.head_dim)
        width = min(CHANNELS, shape.hidden)
        return pivots + cosine_flops(n_tokens, width + 2) + kept * n_tokens * width


def first_of(marked: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Indices (R, ``count``) of the marked tokens (R, n), ascending, and which are real: a row may have fewer."""
    index = (~marked).byte().argsort(dim=1, stable=True)[:, :count]
    return index, marked.gather(1, index)


def merge_dropped(
    states: Tensor, direction: Tensor, chosen: Tensor, there: Tensor, most: int, own: float
) -> tuple[Tensor, Tensor]:
    """States (R, n, D) in which every chosen token, ``most`` a row, has taken in the dropped ones most like it.

    ``own`` x its state, and the rest from the dropped ones, in proportion to their cosines. A token whose cosines sum
    to nothing or less stays as it is. Returns also the index (R, n) of the token that each went into, -1 for none.
    """
    index, real = first_of(chosen, most)
    cosine = (direction @ gather_tokens(direction, index).mT).masked_fill(~real[:, None], float("-inf"))
    best, owner = cosine.max(-1)
    joining = (functional.one_hot(owner, most) * (there & ~chosen)[..., None]).to(best.dtype)
    weight = joining * best.nan_to_num(neginf=0.0)[..., None]
    total = weight.sum(1)
    taken = (weight / total.clamp(min=1e-8)[:, None]).mT @ states.float()
    kept = gather_tokens(states, index)
    merged = (own * kept.float() + (1 - own) * taken).to(states.dtype)
    merged = torch.where((real & (total > 0))[..., None], merged, kept)
    into = index.gather(1, owner).where((there & ~chosen) & (total.gather(1, owner) > 0), -1)
    into = torch.where(chosen, torch.arange(into.shape[1], device=into.device), into)
    return states.scatter(1, index[..., None].expand_as(merged), merged), into
