"""Tokens that always stay because of where they stand, in both stages (`nuwa.pruning.coordinates`)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from nuwa.pruners.base import LLMContext, LLMDecision, MisfitError, Pruner
from nuwa.pruners.contexts import seeded_generator
from nuwa.pruning.coordinates import Coordinates, add_best, grid_scores
from nuwa.pruning.layout import Grid
from nuwa.pruning.prompt import ImagePlan, Prompt


def check_coordinates(coordinates: Coordinates | None, pruner: Pruner, grid: Grid | None, layers: int) -> None:
    """Refuse a method that shows the vision tower a smaller image: the tokens to add have no features.

    Raises:
        MisfitError: it does.
    """
    if coordinates is not None and pruner.image_grid(grid, layers) is not None:
        kind, name = coordinates.kind, pruner.name
        raise MisfitError(f"coordinates.kind={kind} adds tokens of the whole image; pruner {name} shows a smaller one")


def on_top(pruner: Pruner) -> bool:
    """Whether images decide on their numbers, so that coordinates come on top of what is kept."""
    return pruner.counts_by_itself and (pruner.dial is not None or pruner.budget.full)


def reserve(plan: ImagePlan, coordinates: Coordinates, pruner: Pruner) -> None:
    """Note in a plan who its coordinates are, and how many of the tokens before the LLM are left to them."""
    plan.coordinates = coordinates
    if coordinates.kind == "grid":
        plan.scores = grid_scores(plan.layout)
    elif coordinates.kind == "random":
        generator = seeded_generator(f"{plan.id}@coordinates", pruner.seed)
        plan.scores = torch.rand(plan.layout.n_tokens, generator=generator)
    if pruner.prunes_vision and plan.schedule.vision < plan.layout.patches and not on_top(pruner):
        plan.added = coordinates.count(plan.schedule.vision)


def reserved(pruner: Pruner, prompt: Prompt, planned: Tensor) -> Tensor:
    """How many of the ``planned`` (B, I) tokens of a layer are left to coordinates: (B, I)."""
    counts = torch.zeros_like(planned)
    for row, plans in enumerate(() if prompt.coordinates is None or on_top(pruner) else prompt.rows):
        for image, plan in enumerate(plans):
            if plan.coordinates is not None and planned[row, image] < plan.layout.patches:
                counts[row, image] = plan.coordinates.count(int(planned[row, image]))
    return counts


def with_coordinates(
    pruner: Pruner, coordinates: Coordinates, context: LLMContext, decision: LLMDecision, score: Tensor, count: Tensor
) -> LLMDecision:
    """A decision with the best ``count`` (B, I) tokens by ``score`` (B, L) that the method has not kept."""
    count = count.to(score.device)
    if on_top(pruner):
        member = context.image[..., None] == torch.arange(count.shape[1], device=score.device)
        kept = (member & decision.keep[..., None]).sum(1)
        count = (coordinates.share * kept).round().long()
    keep, members = add_best(decision.keep, score, context.image, count), decision.members
    if members is not None:
        own = torch.arange(keep.shape[1], device=keep.device).expand_as(keep)
        members = members.where(~(keep & ~decision.keep), own)
    return replace(decision, keep=keep, members=members)
