"""Everything that a session decides about the images of one sample, in a form that can be drawn.

Shape letters: C axes of the position ids, K kept tokens, N patches of a view.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor

from nuwa.benchmarks.scoring import Box
from nuwa.engine.arguments import cache_of
from nuwa.engine.calls import check_session, read_prompt_once
from nuwa.engine.conversation import conversation_of
from nuwa.engine.session import PruningSession
from nuwa.models.loaded import LoadedModel
from nuwa.pictures.geometry import view_frames
from nuwa.pruners.base import LLMContext, LLMDecision, Pruner, VisionContext, VisionDecision
from nuwa.pruning.layout import Grid, ImageLayout, VisionView
from nuwa.pruning.merging import member_counts
from nuwa.pruning.positions import remap
from nuwa.pruning.prompt import ImagePlan, Prompt
from nuwa.pruning.segments import Segment
from nuwa.samples import Sample, Video

DRAWN_STRATEGIES = ("perc", "pesp", "rpme")
Location = tuple[int, int, int]
"""View, row and column of a patch; a follower (a newline) stands in the column behind its row."""


@dataclass
class StageTrace:
    """What goes on from a layer: ``kept`` tokens of the image in the LLM's order, their ``ids`` (C, K) by strategy.

    ``coordinates`` are those of them that stay in any case. ``scores`` are what the method found there, inside the LLM,
    of all tokens (n_tokens,), by name; NaN for those that had left before, and for newlines.
    """

    layer: int
    kept: list[int]
    ids: dict[str, Tensor]
    coordinates: list[int] = field(default_factory=list)
    scores: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class ViewTrace:
    """One grid of an image: the part of the picture that it covers, and what the vision stage did there.

    ``collectors`` are kept patches that gathered others, ``pillars`` the kept ones that did not, None where the method
    merges nothing or sees each crop by itself. ``weights`` maps a collector to the weights (N,) with which it gathered
    the patches. ``scores`` are what the method found of all patches (N,), by name.
    """

    view: VisionView
    frame: Box
    pillars: list[int] | None = None
    collectors: list[int] | None = None
    weights: dict[int, Tensor] = field(default_factory=dict)
    scores: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class ImageTrace:
    """One image of a sample: the picture, its views, its stages, the ids (C,) of its first token, and its regions.

    ``region`` is the side of the method's regions in patches, None where it has none; ``position`` the strategy in use.
    ``into`` says which token each one is part of in the end: its own unless it was merged, -1 if it is gone.
    """

    picture: Image.Image
    layout: ImageLayout
    views: list[ViewTrace]
    stages: list[StageTrace]
    start: Tensor
    region: int | None
    position: str
    into: list[int]


@dataclass
class VideoTrace:
    """One video of a sample: a picture and a time for each frame of tokens, their ``grid``, and its stages.

    Tokens are numbers among the video's: ``cells`` has those of each frame, ``into`` says which one each of all went
    into, -1 for one that is gone, ``segments``, of methods that cut a video, the number of each frame's, and ``scores``
    what the method found of each frame's cells.
    """

    video: Video
    frames: Sequence[Image.Image]
    times: Sequence[float]
    grid: Grid
    cells: list[list[int]]
    stages: list[StageTrace]
    into: list[int]
    segments: list[int] | None
    scores: list[dict[str, Tensor]]

    def counts(self, number: int) -> list[int]:
        """How many tokens of each frame go on from a stage."""
        kept = set(self.stages[number].kept)
        return [len(kept.intersection(cells)) for cells in self.cells]


def trace_decisions(session: PruningSession, loaded: LoadedModel, sample: Sample) -> list[ImageTrace | VideoTrace]:
    """Read a sample's prompt in an open session and tell what happened to each of its images and videos."""
    check_session(session)
    about = session.about(sample.image_ids or None, loaded.questions([sample]))
    with _decisions(session.pruner) as (seen, inside), about:
        output = read_prompt_once(session, loaded.encode([sample]))
    state = conversation_of(cache_of(output))
    if state is None or state.prompt is None:
        return []
    traces: list[ImageTrace | VideoTrace] = []
    visuals: dict[str, Image.Image | Video] = dict(zip(sample.image_ids, (*sample.images, *sample.videos), strict=True))
    for ordinal, plan in enumerate(state.prompt.rows[0]):
        picture, stages = visuals[plan.id], _stages(state.prompt, state.tables, ordinal, session.strategy)
        for stage in stages:
            if stage.layer in inside:
                stage.scores = inside[stage.layer].scores_of(0, ordinal)
        if isinstance(picture, Video):
            traces.append(video_trace(picture, plan, stages))
            continue
        frames = view_frames(loaded.pictures, picture.size, len(plan.layout.views))
        stitched = len(session.pruner.tiling.views_to_prune(plan.layout)) == len(frames)
        views = [
            _view_trace(plan, number, frame, seen.get(plan.id + (f"/{number}" if number else "")))
            if stitched
            else ViewTrace(plan.layout.views[number], frame)
            for number, frame in enumerate(frames)
        ]
        region = getattr(session.pruner, "region_size", None) if getattr(session.pruner, "region", False) else None
        start = state.prompt.spans[0, :, 0, ordinal]
        into = merged_into(state.prompt, state.tables[-1], ordinal)
        traces.append(ImageTrace(picture, plan.layout, views, stages, start, region, session.strategy, into))
    return traces


def video_trace(video: Video, plan: ImagePlan, stages: list[StageTrace]) -> VideoTrace:
    """A video's plan and stages as they are drawn. A frame of tokens may stand for several of the video: the first."""
    layout, each = plan.layout, -(-len(video.frames) // plan.layout.frames)
    first = range(0, len(video.frames), each)
    segment = plan.extras.get("segment")
    return VideoTrace(
        video,
        frames=[video.frames[at] for at in first],
        times=[video.times[at] for at in first],
        grid=layout.views[0].grid,
        cells=[view.tokens.tolist() for view in layout.views],
        stages=stages,
        into=list(range(layout.n_tokens)) if plan.members is None else plan.members.tolist(),
        segments=None if segment is None else segment.unflatten(0, (layout.frames, -1))[:, 0].tolist(),
        scores=[cell_scores(plan, number) for number in range(layout.frames)],
    )


@contextmanager
def _decisions(pruner: Pruner) -> Iterator[tuple[dict[str, tuple[VisionDecision, int]], dict[int, LLMContext]]]:
    """What the pruner is asked: its decision about every view, by the view's id, with its row there; contexts by layer.

    A context has the scores that the method noted in it.
    """
    seen: dict[str, tuple[VisionDecision, int]] = {}
    inside: dict[int, LLMContext] = {}
    before, within = pruner.prune_vision, pruner.prune_llm

    def prune_vision(context: VisionContext, keep: int) -> VisionDecision:
        decision = before(context, keep)
        seen.update({name: (decision, row) for row, name in enumerate(context.ids)})
        return decision

    def prune_llm(context: LLMContext, keep: Tensor) -> Tensor | LLMDecision:
        inside[context.layer] = context
        return within(context, keep)

    vars(pruner).update(prune_vision=prune_vision, prune_llm=prune_llm)
    try:
        yield seen, inside
    finally:
        del vars(pruner)["prune_vision"], vars(pruner)["prune_llm"]


def gathering_weights(decision: VisionDecision, row: int) -> Tensor | None:
    """The weights (K, N) with which an image's kept tokens gathered all tokens: equal ones, if a method has no others.

    None where nothing was merged.
    """
    kept = decision.keep.shape[1] if decision.counts is None else int(decision.counts[row])
    if decision.weights is not None:
        return decision.weights[row, :kept].cpu()
    if decision.members is None:
        return None
    members = decision.members[row].cpu()
    return (members == torch.arange(kept)[:, None]) / member_counts(members, kept)[:, None]


def cell_scores(plan: ImagePlan, number: int) -> dict[str, Tensor]:
    """What the vision stage noted of every cell (N,) of a view, by name: numbers, not groups or flags.

    Of several views it is noted view by view, or of all together by methods that see a whole video.
    """
    cells, every = len(plan.layout.views[number].tokens), plan.layout.patches
    scores = {}
    for name, values in plan.extras.items():
        plain, _, numbered = name.partition("/")
        if values.is_floating_point() and len(values) == cells and number == int(numbered or 0):
            scores[plain] = values.cpu()
        elif values.is_floating_point() and len(values) == every and every == cells * len(plan.layout.views):
            scores[plain] = values.cpu()[number * cells : (number + 1) * cells]
    return scores


def merged_into(prompt: Prompt, last: Segment, ordinal: int) -> list[int]:
    """Of every token of the first row's image, the one that it is part of in the ``last`` stage, -1 if it is gone."""
    owner, token = last.owner[0].cpu()[prompt.whole.image[0] == ordinal], prompt.whole.token[0]
    return token[owner.clamp(min=0)].masked_fill(owner < 0, -1).tolist()


def _view_trace(plan: ImagePlan, number: int, frame: Box, seen: tuple[VisionDecision, int] | None) -> ViewTrace:
    view, scores = plan.layout.views[number], cell_scores(plan, number)
    weights = None if seen is None else gathering_weights(*seen)
    if seen is None or weights is None:
        return ViewTrace(view, frame, scores=scores)
    decision, row = seen
    kept = decision.keep[row, : len(weights)].cpu()
    gathers = (weights.scatter(1, kept[:, None], 0) != 0).any(1)
    links = dict(zip(kept[gathers].tolist(), weights[gathers], strict=True))
    return ViewTrace(view, frame, kept[~gathers].tolist(), list(links), links, scores)


def _stages(prompt: Prompt, segments: list[Segment], ordinal: int, position: str) -> list[StageTrace]:
    """The stages of the first row's image, ``position`` in use; of stages before the same layer the last counts."""
    stages = {}
    for segment in segments:
        mine = (segment.image[0] == ordinal).cpu()
        tokens = segment.original.cpu(), segment.image.cpu(), segment.valid.cpu(), prompt.spans, prompt.whole.next_id
        ids = {strategy: remap(strategy, *tokens)[0][:, 0][:, mine] for strategy in DRAWN_STRATEGIES}
        ids |= {position: segment.ids[:, 0].cpu()[:, mine]}
        token, always = segment.token[0].cpu()[mine], []
        if prompt.coordinates is not None and len(token) < prompt.rows[0][ordinal].layout.n_tokens:
            best = segment.columns["score"][0].cpu()[mine].argsort(descending=True, stable=True)
            always = token[best[: prompt.coordinates.count(len(token))]].tolist()
        stages[segment.start] = StageTrace(segment.start, token.tolist(), ids, always)
    return list(stages.values())


def token_locations(layout: ImageLayout) -> list[Location]:
    """Where each of an image's tokens sits."""
    places: list[Location] = [(0, 0, 0)] * layout.n_tokens
    groups = [-1] * layout.n_tokens if layout.group is None else layout.group.tolist()
    behind: dict[int, Location] = {}
    for number, view in enumerate(layout.views):
        for patch, token in enumerate(view.tokens.tolist()):
            row, column = divmod(patch, view.grid[1])
            places[token], behind[groups[token]] = (number, row, column), (number, row, view.grid[1])
    for token in (layout.source < 0).nonzero()[:, 0].tolist():
        places[token] = behind[groups[token]]
    return places


def id_locations(ids: Tensor, start: Tensor, layout: ImageLayout) -> list[Location | None]:
    """The patch whose own id each of ``ids`` (C, K) is, given the ids ``start`` (C,) of the image's first token.

    One axis counts the image's tokens, followers included; of three (M-RoPE) the last two are row and column. None: no
    patch of the image has this id.
    """
    offset = (ids - start[:, None]).tolist()
    if len(offset) == 1:
        places = token_locations(layout)
        return [places[at] if 0 <= at < len(places) else None for at in offset[0]]
    rows, columns = layout.views[0].grid
    cells = zip(*offset[1:], strict=True)
    return [(0, row, column) if 0 <= row < rows and 0 <= column < columns else None for row, column in cells]
