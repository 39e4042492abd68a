"""Everything that a session decides about the images of one sample, in a form that can be drawn.

Shape letters: C axes of the position ids, K kept tokens, N cells of a view.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from PIL import Image
from torch import Tensor

from nuwa.benchmarks.scoring import Box
from nuwa.engine.calls import check_session, read_prompt_once
from nuwa.engine.session import PruningSession
from nuwa.engine.state import state_of
from nuwa.models.loaded import LoadedModel
from nuwa.pictures.places import view_frames
from nuwa.pruners.base import Pruner, VisionContext, VisionDecision
from nuwa.pruners.nuwa import Nuwa
from nuwa.pruners.nuwa_release import NuwaRelease, release_weights
from nuwa.pruning.layout import ImageLayout, VisionView
from nuwa.pruning.merging import collector_weights
from nuwa.pruning.positions import remap
from nuwa.pruning.segments import Prompt, Segment
from nuwa.samples import Sample

STRATEGIES = ("perc", "pesp", "rpme")
Place = tuple[int, int, int]
"""View, row and column of a cell; a newline stands in the column behind its row."""


@dataclass
class Stage:
    """What goes on from a layer: ``kept`` tokens of the image in the LLM's order, their ``ids`` (C, K) by strategy."""

    layer: int
    kept: list[int]
    ids: dict[str, Tensor]


@dataclass
class ViewLook:
    """One grid of an image: the part of the picture that it covers, and what the vision stage did there.

    ``pillars`` and ``collectors`` are cells, None where the method has no such roles; ``weights`` maps a collector to
    the weights (N,) with which it gathered the cells.
    """

    view: VisionView
    frame: Box
    pillars: list[int] | None = None
    collectors: list[int] | None = None
    weights: dict[int, Tensor] = field(default_factory=dict)


@dataclass
class ImageLook:
    """One image of a sample: the picture, its views, its stages, the ids (C,) of its first token, and its regions.

    ``region`` is the side of the method's regions in cells, None where it has none; ``position`` the strategy in use.
    """

    id: str
    picture: Image.Image
    layout: ImageLayout
    views: list[ViewLook]
    stages: list[Stage]
    start: Tensor
    region: int | None
    position: str


def look_at(session: PruningSession, loaded: LoadedModel, sample: Sample) -> list[ImageLook]:
    """Read a sample's prompt in an open session and tell what happened to each of its images."""
    check_session(session)
    session.image_ids, session.questions = sample.image_ids or None, loaded.questions([sample])
    with _decisions(session.pruner) as seen:
        output = read_prompt_once(session, loaded.encode([sample]))
    state = state_of(output.past_key_values)
    looks = []
    for ordinal, plan in enumerate(state.prompt.rows[0] if state else ()):
        picture = sample.images[ordinal]
        frames = view_frames(loaded.pictures, picture.size, len(plan.layout.views))
        views = [
            _view_look(session.pruner, view, frame, seen.get(plan.id + (f"/{number}" if number else "")))
            for number, (view, frame) in enumerate(zip(plan.layout.views, frames, strict=True))
        ]
        region = getattr(session.pruner, "region_size", None) if getattr(session.pruner, "region", False) else None
        start = state.prompt.spans[0, :, 0, ordinal].cpu()
        stages = _stages(state.prompt, state.segments, ordinal)
        looks.append(ImageLook(plan.id, picture, plan.layout, views, stages, start, region, session.strategy))
    return looks


@contextmanager
def _decisions(pruner: Pruner) -> Iterator[dict[str, tuple[VisionContext, VisionDecision, int]]]:
    """The context and decision of every view that the pruner is asked about, by the view's id, with its row there."""
    seen: dict[str, tuple[VisionContext, VisionDecision, int]] = {}
    decide = pruner.prune_vision

    def prune_vision(context: VisionContext, keep: int) -> VisionDecision:
        decision = decide(context, keep)
        seen.update({name: (context, decision, row) for row, name in enumerate(context.ids)})
        return decision

    vars(pruner)["prune_vision"] = prune_vision
    try:
        yield seen
    finally:
        del vars(pruner)["prune_vision"]


def aggregation_weights(pruner: Pruner, context: VisionContext, decision: VisionDecision) -> Tensor | None:
    """The weights (B, K, N) with which Nüwa's collectors gather cells; None for methods that say nothing of theirs."""
    pillar = decision.extras.get("pillar")
    if isinstance(pruner, Nuwa):
        return collector_weights(context.features, decision.keep, context.grid, pruner.d_thresh)
    if isinstance(pruner, NuwaRelease):
        return release_weights(context.taps["states"], decision.keep, pillar, context.grid, pruner.d_thresh)
    return None


def _view_look(
    pruner: Pruner, view: VisionView, frame: Box, seen: tuple[VisionContext, VisionDecision, int] | None
) -> ViewLook:
    if seen is None or seen[1].extras.get("pillar") is None:
        return ViewLook(view, frame)
    context, decision, row = seen
    kept, pillar = decision.keep[row].tolist(), decision.extras["pillar"][row].tolist()
    weights = aggregation_weights(pruner, context, decision)
    gathered = {} if weights is None else dict(zip(kept, weights[row].cpu(), strict=True))
    pillars = [cell for cell, own in zip(kept, pillar, strict=True) if own]
    collectors = [cell for cell, own in zip(kept, pillar, strict=True) if not own]
    return ViewLook(view, frame, pillars, collectors, {cell: gathered[cell] for cell in collectors if cell in gathered})


def _stages(prompt: Prompt, segments: list[Segment], ordinal: int) -> list[Stage]:
    """The stages of the first row's image; of stages before the same layer the last counts."""
    stages = {}
    for segment in segments:
        mine = (segment.image[0] == ordinal).cpu()
        ids = {}
        for strategy in STRATEGIES:
            moved, _ = remap(
                strategy, segment.original, segment.image, segment.valid, prompt.spans, prompt.whole.next_id
            )
            ids[strategy] = moved[:, 0].cpu()[:, mine]
        stages[segment.start] = Stage(segment.start, segment.token[0].cpu()[mine].tolist(), ids)
    return list(stages.values())


def token_places(layout: ImageLayout) -> list[Place]:
    """Where each of an image's tokens sits."""
    places: list[Place] = [(0, 0, 0)] * layout.n_tokens
    for number, view in enumerate(layout.views):
        for cell, token in enumerate(view.tokens.tolist()):
            places[token] = number, cell // view.grid[1], cell % view.grid[1]
        for row, token in enumerate(() if view.newlines is None else view.newlines.tolist()):
            places[token] = number, row, view.grid[1]
    return places


def id_places(ids: Tensor, start: Tensor, layout: ImageLayout) -> list[Place | None]:
    """The cell whose own id each of ``ids`` (C, K) is, given the ids ``start`` (C,) of the image's first token.

    One axis counts the image's tokens, newlines included; of three (M-RoPE) the last two are row and column. None: no
    cell of the image has this id.
    """
    offset = (ids - start[:, None]).tolist()
    if len(offset) == 1:
        places = token_places(layout)
        return [places[at] if 0 <= at < len(places) else None for at in offset[0]]
    rows, columns = layout.views[0].grid
    inside = [0 <= row < rows and 0 <= column < columns for row, column in zip(*offset[1:], strict=True)]
    cells = zip(*offset[1:], inside, strict=True)
    return [(0, row, column) if within else None for row, column, within in cells]
