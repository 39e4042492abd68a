"""What a session decided about one image, as a picture (paper Fig. 11, 15-17)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import accumulate
from typing import Any

from PIL import Image, ImageDraw

from nuwa.benchmarks.base import Benchmark
from nuwa.benchmarks.scoring import Box, parse_box
from nuwa.engine.session import PruningSession
from nuwa.models.loaded import LoadedModel
from nuwa.pictures.canvas import COLLECTOR, KEPT, LINK, MOVED, PILLAR, PREDICTED, TRUE_BOX, Panel, in_a_line
from nuwa.pictures.geometry import WHOLE, BoxError, center_patch, in_frame
from nuwa.pictures.traces import (
    ImageTrace,
    Location,
    ViewTrace,
    id_locations,
    token_locations,
    trace_decisions,
)  # fmt: skip
from nuwa.samples import Sample

PICTURE_LEGEND = (
    ("kept", KEPT), ("collector", COLLECTOR), ("pillar", PILLAR), ("links of the framed collector", LINK),
    ("white box: true", "#000000"), ("dashed box: predicted; dot: moved id", MOVED),
)  # fmt: skip
PICTURE_FOLDER = "pictures"
Boxes = dict[str, Box]
"""``true`` and ``predicted``, where they exist, in fractions of the picture."""


def sample_pictures(
    session: PruningSession, loaded: LoadedModel, benchmark: Benchmark, sample: Sample, row: Mapping[str, Any]
) -> Iterator[Image.Image]:
    """A picture of what an open session decides about each image of a sample, and of what its journal row answers."""
    title = f"{session.pruner.name}, {session.strategy}: {sample.text!r} -> {row['prediction']!r}"
    boxes = boxes_of(benchmark, sample, row)
    return (draw_trace(trace, boxes, title) for trace in trace_decisions(session, loaded, sample))


def draw_trace(trace: ImageTrace, boxes: Boxes, title: str) -> Image.Image:
    """All panels of one image: a row per view, a column per stage and per position strategy."""
    rows = []
    for number in range(len(trace.views)):
        panels = [stage_panel(trace, number, index, boxes) for index in range(len(trace.stages))]
        panels += [ids_panel(trace, number, strategy) for strategy in trace.stages[0].ids]
        rows.append(in_a_line([panel.finished() for panel in panels]))
    return in_a_line([text_line([(title, "#000000")]), *rows, text_line(PICTURE_LEGEND)], down=True)


def kept_patches(trace: ImageTrace, number: int, tokens: Sequence[int]) -> list[int]:
    """The patches of a view among an image's tokens; newlines are no patches."""
    columns, places = trace.views[number].view.grid[1], token_locations(trace.layout)
    mine = [places[token][1:] for token in tokens if places[token][0] == number]
    return [row * columns + column for row, column in mine if column < columns]


def choose_collector(view: ViewTrace, boxes: Boxes) -> int | None:
    """The collector nearest to the true box's centre, or to the middle; None where there are no links to show."""
    if not view.weights:
        return None
    target = WHOLE
    with suppress(BoxError):
        target = in_frame(boxes.get("true", WHOLE), view.frame)
    near, columns = center_patch(view.view.grid, target), view.view.grid[1]
    return min(view.weights, key=lambda c: (c // columns - near // columns) ** 2 + (c % columns - near % columns) ** 2)


def stage_panel(trace: ImageTrace, number: int, index: int, boxes: Boxes) -> Panel:
    """What of a view goes on from a stage; the first shows regions and the links of a collector too."""
    view, stage = trace.views[number], trace.stages[index]
    patches = kept_patches(trace, number, stage.kept)
    caption = f"enters layer {stage.layer}: {len(patches)} of {len(view.view.tokens)}"
    panel = Panel(trace.picture, view.frame, view.view.grid, caption)
    panel.keep(patches, view.pillars, view.collectors)
    if index == 0:
        if trace.region is not None:
            panel.regions(trace.region)
        collector = choose_collector(view, boxes)
        if collector is not None:
            panel.links(collector, view.weights[collector].tolist())
    for name, box in boxes.items():
        try:
            panel.box(in_frame(box, view.frame), PREDICTED if name == "predicted" else TRUE_BOX, name == "predicted")
        except BoxError as error:
            panel.caption += f"\n{name} {error}"
    return panel


def ids_panel(trace: ImageTrace, number: int, strategy: str) -> Panel:
    """Where the tokens of a view that enter the LLM are by their ids, under a strategy."""
    view = trace.views[number]
    moves = [pair for pair in id_moves(trace, strategy) if pair[0][0] == number]
    shown = [(here[1:], there[1:]) for here, there in moves if there is not None and there[0] == number]
    used = " (in use)" if strategy == trace.position else ""
    caption = f"{strategy.upper()}{used}: {sum(a == b for a, b in shown)} of {len(moves)} ids in place"
    if len(shown) < len(moves):
        caption += f"\n{len(moves) - len(shown)} ids are of no cell here"
    panel = Panel(trace.picture, view.frame, view.view.grid, caption)
    panel.ids(shown)
    return panel


def id_moves(trace: ImageTrace, strategy: str) -> list[tuple[Location, Location | None]]:
    """Of every token that enters the LLM, where it is and where its id is."""
    places, stage = token_locations(trace.layout), trace.stages[0]
    there = id_locations(stage.ids[strategy], trace.start, trace.layout)
    return list(zip(map(places.__getitem__, stage.kept), there, strict=True))


def text_line(parts: Sequence[tuple[str, str]]) -> Image.Image:
    """Words in colours, one after the other."""
    width = [int(ImageDraw.Draw(Image.new("RGB", (1, 1))).textlength(text)) + 16 for text, _ in parts]
    line = Image.new("RGB", (sum(width), 16), "white")
    for (text, colour), left in zip(parts, accumulate(width, initial=2), strict=False):
        ImageDraw.Draw(line).text((left, 2), text, fill=colour)
    return line


def boxes_of(benchmark: Benchmark, sample: Sample, row: Mapping[str, Any]) -> Boxes:
    """The true box of a sample whose task is a box, and the one that its journal row names."""
    if sample.task not in benchmark.unit_box_tasks or not isinstance(sample.target, list | tuple):
        return {}
    x0, y0, x1, y1 = sample.target
    boxes: Boxes = {"true": (x0, y0, x1, y1)}
    said = parse_box(row.get("scored", row["prediction"]))
    return boxes if said is None else boxes | {"predicted": said}


def file_name(text: str) -> str:
    """A sample's id as a file's name; a hash tells ids apart that read the same.

    >>> file_name("a/b"), file_name("a_b")
    ('a_b-82badf67', 'a_b-c311a49b')
    """
    digest = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=4).hexdigest()
    readable = re.sub(r"[^\w.-]+", "_", text)[:100]
    return f"{readable}-{digest}"
