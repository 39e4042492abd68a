"""What a session decided about one image, as a picture (paper Fig. 11, 15-17)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image, ImageDraw

from nuwa.benchmarks.base import Benchmark
from nuwa.benchmarks.scoring import Box, parse_box
from nuwa.pictures.canvas import COLLECTOR, KEPT, LINK, MOVED, PILLAR, PREDICTED, TRUE_BOX, Panel, below, beside
from nuwa.pictures.looks import STRATEGIES, ImageLook, Place, ViewLook, id_places, token_places
from nuwa.pictures.places import BoxError, center_cell, in_frame
from nuwa.samples import Sample

LEGEND = (
    ("kept", KEPT), ("collector", COLLECTOR), ("pillar", PILLAR), ("links of the framed collector", LINK),
    ("white box: true", "#000000"), ("dashed box: predicted; dot: moved id", MOVED),
)  # fmt: skip
FOLDER = "pictures"
Boxes = dict[str, Box]
"""``true`` and ``predicted``, where they exist, in fractions of the picture."""


def draw_look(look: ImageLook, boxes: Boxes, title: str) -> Image.Image:
    """All panels of one image: a row per view, a column per stage and per position strategy."""
    rows = []
    for number in range(len(look.views)):
        panels = [stage_panel(look, number, index, boxes) for index in range(len(look.stages))]
        panels += [ids_panel(look, number, strategy) for strategy in STRATEGIES]
        rows.append(beside([panel.finished() for panel in panels]))
    return below([text_line([(title, "#000000")]), *rows, text_line(LEGEND)])


def cells_of(look: ImageLook, number: int, tokens: Sequence[int]) -> list[int]:
    """The cells of a view among an image's tokens; newlines are no cells."""
    columns, places = look.views[number].view.grid[1], token_places(look.layout)
    mine = [places[token][1:] for token in tokens if places[token][0] == number]
    return [row * columns + column for row, column in mine if column < columns]


def choose_collector(view: ViewLook, boxes: Boxes) -> int | None:
    """The collector nearest to the true box's centre, or to the middle; None where there are no links to show."""
    if not view.weights:
        return None
    try:
        near = center_cell(view.view.grid, in_frame(boxes.get("true", (0.0, 0.0, 1.0, 1.0)), view.frame))
    except BoxError:
        near = center_cell(view.view.grid, (0.0, 0.0, 1.0, 1.0))
    columns = view.view.grid[1]
    return min(view.weights, key=lambda c: (c // columns - near // columns) ** 2 + (c % columns - near % columns) ** 2)


def stage_panel(look: ImageLook, number: int, index: int, boxes: Boxes) -> Panel:
    """What of a view goes on from a stage; the first shows regions and the links of a collector too."""
    view, stage = look.views[number], look.stages[index]
    cells = cells_of(look, number, stage.kept)
    caption = f"enters layer {stage.layer}: {len(cells)} of {len(view.view.tokens)}"
    panel = Panel(look.picture, view.frame, view.view.grid, caption)
    panel.keep(cells, view.pillars, view.collectors)
    if index == 0:
        if look.region is not None:
            panel.regions(look.region)
        collector = choose_collector(view, boxes)
        if collector is not None:
            panel.links(collector, view.weights[collector].tolist())
    for name, box in boxes.items():
        try:
            panel.box(in_frame(box, view.frame), PREDICTED if name == "predicted" else TRUE_BOX, name == "predicted")
        except BoxError as error:
            panel.caption += f"\n{name} {error}"
    return panel


def ids_panel(look: ImageLook, number: int, strategy: str) -> Panel:
    """Where the tokens of a view that enter the LLM are by their ids, under a strategy."""
    view = look.views[number]
    moves = [pair for pair in id_moves(look, strategy) if pair[0][0] == number]
    shown = [(here[1:], there[1:]) for here, there in moves if there is not None and there[0] == number]
    used = " (in use)" if strategy == look.position else ""
    caption = f"{strategy.upper()}{used}: {sum(a == b for a, b in shown)} of {len(moves)} ids in place"
    if len(shown) < len(moves):
        caption += f"\n{len(moves) - len(shown)} ids are of no cell here"
    panel = Panel(look.picture, view.frame, view.view.grid, caption)
    panel.ids(shown)
    return panel


def id_moves(look: ImageLook, strategy: str) -> list[tuple[Place, Place | None]]:
    """Of every token that enters the LLM, where it is and where its id is."""
    places, stage = token_places(look.layout), look.stages[0]
    there = id_places(stage.ids[strategy], look.start, look.layout)
    return list(zip(map(places.__getitem__, stage.kept), there, strict=True))


def text_line(parts: Sequence[tuple[str, str]]) -> Image.Image:
    """Words in colours, one after the other."""
    width = [int(ImageDraw.Draw(Image.new("RGB", (1, 1))).textlength(text)) + 16 for text, _ in parts]
    line = Image.new("RGB", (sum(width), 16), "white")
    draw, left = ImageDraw.Draw(line), 2
    for (text, colour), wide in zip(parts, width, strict=True):
        draw.text((left, 2), text, fill=colour)
        left += wide
    return line


def boxes_of(benchmark: Benchmark, sample: Sample, row: Mapping[str, Any]) -> Boxes:
    """The true box of a sample whose task is a box, and the one that its journal row names."""
    if sample.task not in benchmark.unit_box_tasks:
        return {}
    said = parse_box(row.get("scored", row["prediction"]))
    return {"true": sample.target} | ({} if said is None else {"predicted": said})


def title_of(method: str, position: str, sample: Sample, row: Mapping[str, Any]) -> str:
    """What stands above a picture."""
    return f"{method}, {position}: {sample.text!r} -> {row['prediction']!r}"


def file_name(text: str) -> str:
    """A sample's id as a file's name."""
    return re.sub(r"[^\w.-]+", "_", text)[:100]
