"""What a session decided about one image, as a picture (paper Fig. 11, 15-17)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from PIL import Image

from nuwa.benchmarks.base import Benchmark
from nuwa.benchmarks.scoring import Box, parse_box
from nuwa.engine.session import PruningSession
from nuwa.models.loaded import LoadedModel
from nuwa.pictures.canvas import PREDICTED, TRUE_BOX, Panel, in_a_line
from nuwa.pictures.captions import legend, title_lines
from nuwa.pictures.geometry import WHOLE, BoxError, center_patch, in_frame
from nuwa.pictures.sheets import contact_sheet
from nuwa.pictures.text import Phrase, text_block
from nuwa.pictures.traces import (
    ImageTrace,
    Location,
    VideoTrace,
    ViewTrace,
    id_locations,
    token_locations,
    trace_decisions,
)  # fmt: skip
from nuwa.samples import Sample

PICTURE_FOLDER = "pictures"
Boxes = dict[str, Box]
"""``true`` and ``predicted``, where they exist, in fractions of the picture."""


def sample_pictures(
    session: PruningSession,
    loaded: LoadedModel,
    benchmark: Benchmark,
    sample: Sample,
    row: Mapping[str, Any],
    ids: bool = False,
) -> Iterator[Image.Image]:
    """`draw_decisions` about a sample of a benchmark, with what its journal row answers.

    With ``ids``, also where the tokens are by their position ids, under every strategy.
    """
    boxes = boxes_of(benchmark.unit_box_tasks, row)
    method = f"{session.pruner.name}, {session.strategy.upper()}"
    heading = title_lines(method, sample.expression or sample.text, row, is_box="true" in boxes)
    return draw_decisions(session, loaded, sample, boxes, heading, ids)


def draw_decisions(
    session: PruningSession,
    loaded: LoadedModel,
    sample: Sample,
    boxes: Boxes,
    heading: Sequence[Sequence[Phrase]],
    ids: bool = False,
) -> Iterator[Image.Image]:
    """A picture of what an open session decides about each image of a sample; of a video a contact sheet."""
    for trace in trace_decisions(session, loaded, sample):
        if isinstance(trace, VideoTrace):
            yield contact_sheet(trace, heading)
        else:
            yield draw_trace(trace, boxes, heading, ids)


def draw_trace(trace: ImageTrace, boxes: Boxes, heading: Sequence[Sequence[Phrase]], ids: bool = False) -> Image.Image:
    """All panels of one image: a row per view; the original, a column per stage and, with ``ids``, per strategy."""
    rows = []
    for number in range(len(trace.views)):
        panels = [original_panel(trace, number, boxes)]
        panels += [stage_panel(trace, number, index, boxes) for index in range(len(trace.stages))]
        panels += [ids_panel(trace, number, strategy) for strategy in trace.stages[0].ids if ids]
        rows.append(in_a_line([panel.finished() for panel in panels]))
    width = max(row.width for row in rows)
    marks = legend(trace.views, set(boxes), ids, bool(trace.stages[0].coordinates))
    top, bottom = text_block(heading, width), text_block([marks], width)
    return in_a_line([top, *rows, bottom], down=True)


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


def original_panel(trace: ImageTrace, number: int, boxes: Boxes) -> Panel:
    """The part of the picture that a view covers, as it is, with the boxes."""
    view = trace.views[number]
    panel = Panel(trace.picture, view.frame, view.view.grid, "original", faded=False)
    draw_boxes(panel, view, boxes)
    return panel


def stage_panel(trace: ImageTrace, number: int, index: int, boxes: Boxes) -> Panel:
    """What of a view goes on from a stage; the first shows regions and the links of a collector too."""
    view, stage = trace.views[number], trace.stages[index]
    patches = kept_patches(trace, number, stage.kept)
    caption = f"enters layer {stage.layer}: {len(patches)} of {len(view.view.tokens)}"
    panel = Panel(trace.picture, view.frame, view.view.grid, caption)
    panel.keep(patches, view.pillars, view.collectors, kept_patches(trace, number, stage.coordinates))
    if index == 0:
        if trace.region is not None:
            panel.regions(trace.region)
        collector = choose_collector(view, boxes)
        if collector is not None:
            panel.links(collector, view.weights[collector].tolist())
    draw_boxes(panel, view, boxes)
    return panel


def draw_boxes(panel: Panel, view: ViewTrace, boxes: Boxes) -> None:
    """The true and the predicted box on a view; one that no token sees is said in the caption."""
    for name, box in boxes.items():
        try:
            panel.box(in_frame(box, view.frame), PREDICTED if name == "predicted" else TRUE_BOX, name == "predicted")
        except BoxError as error:
            panel.caption += f"\n{name} {error}"


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


def boxes_of(tasks: Collection[str], row: Mapping[str, Any]) -> Boxes:
    """The true box of a journal row whose task is one of ``tasks``, whose answers are boxes, and the answered one."""
    if row["task"] not in tasks or not isinstance(row["target"], list | tuple):
        return {}
    x0, y0, x1, y1 = row["target"]
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
