"""The vision stage: a pruner decides which tokens of each image enter the LLM."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nuwa.engine.call import Rules
from nuwa.engine.coordinates import on_top, reserve
from nuwa.engine.decision_cache import DecisionCache
from nuwa.engine.decisions import kept_cells, merged_cells
from nuwa.engine.tower import Encoded
from nuwa.models.base import Family
from nuwa.pruners.base import Pruner, VisionContext, VisionDecision
from nuwa.pruning.budget import BudgetError
from nuwa.pruning.flops import ModelShape
from nuwa.pruning.layout import VisionView
from nuwa.pruning.merging import merge_alike
from nuwa.pruning.prompt import ImagePlan
from nuwa.pruning.schedules import Schedule

FEW = 64
"""Images of this size may stay whole where a method cannot reach its share: 8 x 8 tokens, 224 pixels of Qwen's."""


@dataclass
class VisionPiece:
    """Piece ``number`` of an image, whose frames have ``pieces``; ``planned`` tokens stay. ``taps`` have no batch."""

    image: int
    number: int
    pieces: int
    view: VisionView
    planned: int
    features: Tensor
    taps: dict[str, Tensor]

    @property
    def kind(self) -> tuple:
        """Pieces of one kind can share one call of a method."""
        return self.pieces, self.view.grid, self.view.frames, self.planned, self.features.shape, tuple(self.taps)


def schedule_for(pruner: Pruner, n_tokens: int, shape: ModelShape) -> tuple[Schedule, bool]:
    """The counts for an image of ``n_tokens``, and whether it is too small for the budget.

    That takes dynamic resolution. Such an image costs the most that its method can spend, and enters the LLM whole. It
    is too small for an absolute budget if it cannot spend it, for a share if whole tokens cannot come near it.

    Raises:
        BudgetError: the method cannot reach the budget on an image that is not small.
    """
    if shape.image_tokens is not None:
        return pruner.schedule_on(n_tokens, shape), False
    highest, average = pruner.schedule_on(n_tokens, shape, most=True), pruner.budget.average
    if average is not None and average >= highest.average(shape.layers):
        return highest, True
    try:
        return pruner.schedule_on(n_tokens, shape), False
    except BudgetError:
        if average is None and n_tokens <= FEW:
            return highest, True
        raise


def plan_images(
    rules: Rules, adapter: Family, seen: Encoded, ids: Sequence[str], questions: Sequence[str] | None = None
) -> list[ImagePlan]:
    """Decide on every image. Where a method made new features, these replace the old ones of ``seen``.

    In its planes they merge as the features did, where the rules say so. ``questions``: what is asked about each image.

    Raises:
        nuwa.pruning.budget.BudgetError: the method cannot reach its budget on an image of this size.
    """
    pruner, images, decisions = rules.pruner, seen.images, DecisionCache(rules.cache, seen.key)
    plans: list[ImagePlan] = []
    groups: dict[tuple, list[VisionPiece]] = defaultdict(list)
    for image, (name, layout) in enumerate(zip(ids, seen.layouts, strict=True)):
        schedule, small = schedule_for(pruner, layout.patches, adapter.shape)
        plans.append(ImagePlan(name, layout, schedule))
        if rules.coordinates is not None and not small:
            reserve(plans[-1], rules.coordinates, pruner)
        if pruner.prunes_vision and not small:
            for piece in _pieces_of(pruner, seen, image, plans[-1]):
                groups[piece.kind].append(piece)
    kept: dict[tuple[int, int], Tensor] = {}
    for group in groups.values():
        context = _context(pruner, adapter, plans, group, questions)
        views = [(piece.image, piece.view.tokens) for piece in group]
        decision = decisions.decide(pruner, context, group[0].planned, views)
        every = kept_cells(pruner, context, decision, group[0].planned)
        merged = merged_cells(pruner, context, decision, every)
        projected = decision.projected if decision.features is None else adapter.project(decision.features)
        for row, (piece, cells) in enumerate(zip(group, every, strict=True)):
            kept[piece.image, piece.number] = piece.view.in_prompt_order(cells)
            _note_members(plans[piece.image], piece.view, cells, *merged[row])
            _note_extras(plans[piece.image], piece, cells, decision, row)
            if projected is not None:
                images[piece.image] = _replaced(images[piece.image], piece.view, cells, projected[row, : len(cells)])
                _merge_alike(seen.planes if rules.merges_planes else (), piece, cells, decision, row)
    _let_in(pruner, plans, kept)
    return plans


def _let_in(pruner: Pruner, plans: Sequence[ImagePlan], kept: Mapping[tuple[int, int], Tensor]) -> None:
    """Say in the plans what enters the LLM, given what is ``kept`` of each image's pieces."""
    for image in {image for image, _ in kept}:
        mine, plan = [kept[key] for key in sorted(kept) if key[0] == image], plans[image]
        plan.keep = pruner.tiling.entering(plan.layout, mine)
        if plan.coordinates is not None and on_top(pruner):
            plan.added = round(plan.coordinates.share * sum(map(len, mine)))


def _note_members(plan: ImagePlan, view: VisionView, cells: Tensor, members: Tensor, sizes: Tensor) -> None:
    """Say in a plan which token each of a view's went into, and how many a kept one stands for."""
    if plan.members is None or plan.sizes is None:
        plan.members, plan.sizes = torch.full((plan.layout.n_tokens,), -1), torch.ones(plan.layout.n_tokens)
    kept = view.tokens[cells]
    plan.members[view.tokens] = kept[members].masked_fill(members < 0, -1) if len(kept) else members
    plan.sizes[kept] = sizes


def _note_extras(plan: ImagePlan, piece: VisionPiece, cells: Tensor, decision: VisionDecision, row: int) -> None:
    """Say in a plan what row ``row`` of a decision shows of a piece."""
    for name, values in decision.extras.items():
        plan.extras[_numbered(name, piece)] = _by_cell(values[row], cells, piece)


def _replaced(image: Tensor, view: VisionView, cells: Tensor, new: Tensor) -> Tensor:
    """Projected features (n_tokens, H) of an image with ``new`` ones (K, H) for cells (K,) of a view."""
    return image.index_copy(0, view.tokens[cells].to(image.device), new.to(image))


def _merge_alike(
    planes: Sequence[list[Tensor]], piece: VisionPiece, cells: Tensor, decision: VisionDecision, row: int
) -> None:
    """Replace rows of every plane (n_tokens, H) of an image as row ``row`` of a decision merged its features."""
    parts = decision.members, decision.weights, decision.shares
    members, weights, shares = (None if part is None else part[row : row + 1] for part in parts)
    weights = None if weights is None else weights[:, : len(cells)]
    for plane in planes:
        whole = plane[piece.image]
        values = whole[piece.view.tokens.to(whole.device)][None]
        plane[piece.image] = _replaced(
            whole, piece.view, cells, merge_alike(values, cells[None], members, weights, shares)[0]
        )


def _numbered(name: str, piece: VisionPiece) -> str:
    """A name of something about a view: that of the image for its first one."""
    return f"{name}/{piece.number}" if piece.number else name


def _by_cell(values: Tensor, cells: Tensor, piece: VisionPiece) -> Tensor:
    """Values by kept token (K,) as values by cell (N,), 0 elsewhere, where an image has several views."""
    whole = piece.view.grid[0] * piece.view.grid[1]
    if piece.pieces == 1 or len(values) == whole:
        return values
    return values.new_zeros(whole).index_copy(0, cells.to(values.device), values[: len(cells)])


def _pieces_of(pruner: Pruner, encoded: Encoded, image: int, plan: ImagePlan) -> list[VisionPiece]:
    """The pieces of an image that get any tokens, with what was recorded of them, on the projector's device."""
    tiling, recording, device, smaller = pruner.tiling, encoded.recording, encoded.images[image].device, encoded.smaller
    views = tiling.views_to_prune(plan.layout)
    pieces, of_a_frame = [], max(1, len(views) * views[0].frames // plan.layout.frames)
    for number, keep in enumerate(tiling.split_budget(plan.schedule.vision - plan.added, plan.layout)):
        if keep:
            view = views[number]
            rows = plan.layout.source[view.tokens] if smaller is None else torch.arange(smaller[0] * smaller[1])
            seen = {name: recording.view(tap, image, rows) for name, tap in pruner.taps.items()}
            taps = {name: values.to(device) for name, values in seen.items() if values is not None}
            features = recording.features(image, rows).to(device)
            pieces.append(VisionPiece(image, number, of_a_frame, view, keep, features, taps))
    return pieces


def _together(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors (...) of one shape as a batch (B, ...); a single one is not copied."""
    return tensors[0][None] if len(tensors) == 1 else torch.stack(list(tensors))


def _context(
    pruner: Pruner,
    adapter: Family,
    plans: Sequence[ImagePlan],
    group: Sequence[VisionPiece],
    questions: Sequence[str] | None,
) -> VisionContext:
    return VisionContext(
        grid=group[0].view.grid,
        features=_together([piece.features for piece in group]),
        taps={name: _together([piece.taps[name] for piece in group]) for name in group[0].taps},
        ids=[_numbered(plans[piece.image].id, piece) for piece in group],
        project=adapter.project,
        views=group[0].pieces,
        frames=group[0].view.frames,
        axes=adapter.axes,
        questions=None if questions is None else [questions[piece.image] for piece in group],
        embed=adapter.embed,
        source=adapter.model.name_or_path or "",
    )
