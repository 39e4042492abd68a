"""The vision stage: asks a pruner which tokens of each image stay, before the LLM sees any."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from torch import Tensor

from nuwa.models.base import Adapter, Recording
from nuwa.pruners.base import Pruner, VisionContext
from nuwa.pruning.layout import ImageLayout
from nuwa.pruning.segments import ImagePlan


def content_id(pixels: Tensor) -> str:
    """A name for an image that nobody named: a digest of its pixels."""
    data = pixels.detach().float().cpu().contiguous().numpy().tobytes()
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def plan_images(
    pruner: Pruner,
    adapter: Adapter,
    images: list[Tensor],
    layouts: Sequence[ImageLayout],
    ids: Sequence[str],
    recording: Recording,
) -> list[ImagePlan]:
    """Decide on every image. ``images`` (n_tokens, H) are replaced in the list where a method made new features.

    Raises:
        nuwa.pruning.budget.BudgetError: the method cannot reach its budget on an image of this size.
    """
    depth = adapter.shape.layers
    plans = [
        ImagePlan(name, layout, pruner.schedule(layout.n_tokens, depth))
        for name, layout in zip(ids, layouts, strict=True)
    ]
    if pruner.prunes_vision:
        for group in _same_layout(layouts):
            _prune_group(pruner, adapter, images, plans, group, recording)
    return plans


def _same_layout(layouts: Sequence[ImageLayout]) -> list[list[int]]:
    groups: list[list[int]] = []
    for i, layout in enumerate(layouts):
        group = next((g for g in groups if layouts[g[0]].same_as(layout)), None)
        if group is None:
            groups.append([i])
        else:
            group.append(i)
    return groups


def _prune_group(
    pruner: Pruner,
    adapter: Adapter,
    images: list[Tensor],
    plans: list[ImagePlan],
    group: list[int],
    recording: Recording,
) -> None:
    view = plans[group[0]].layout.views[0]
    taps = {tap: recording.view(tap) for tap in pruner.taps}
    context = VisionContext(
        grid=view.grid,
        features=recording.features[group],
        taps={tap: None if values is None else values[group] for tap, values in taps.items()},
        ids=[plans[i].id for i in group],
        project=adapter.project,
    )
    decision = pruner.prune_vision(context, plans[group[0]].schedule.vision)
    projected = None if decision.features is None else adapter.project(decision.features)
    for row, i in enumerate(group):
        count = decision.keep.shape[1] if decision.counts is None else int(decision.counts[row])
        plans[i].keep = view.tokens.to(decision.keep.device)[decision.keep[row, :count]]
        plans[i].extras = {name: values[row] for name, values in decision.extras.items()}
        if projected is not None:
            images[i] = images[i].index_copy(0, plans[i].keep, projected[row, :count].to(images[i]))
