"""The figures of docs/concepts.md and the pictures of the examples: python docs/pages/figures.py

Figures are drawn from what the package computes. A test compares the files with what this makes.
"""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from nuwa.config import build, typed
from nuwa.overrides import compose_job
from nuwa.pictures.canvas import KEPT, MOVED
from nuwa.pictures.text import FAINT, INK
from nuwa.pruners.catalogue import find_method
from nuwa.pruning.budget import Budget
from nuwa.pruning.positions import remap
from nuwa.report.method_facts import shown_counts

DOCS = Path(__file__).resolve().parents[1]
EMPTY, TEXT = "#E8E8E8", "#9A9A9A"
PATCHES, LAYERS, BUDGET = 576, 32, 64
"""LLaVA-1.5-7B, and the budget of the figures."""


def text(x: float, y: float, words: str, colour: str = INK, size: int = 13, anchor: str = "start") -> str:
    """Words whose base line begins, or with ``anchor`` ends or has its middle, at a place."""
    return f'<text x="{x:g}" y="{y:g}" fill="{colour}" font-size="{size}" text-anchor="{anchor}">{words}</text>'


def box(x: float, y: float, width: float, height: float, colour: str) -> str:
    """A filled rectangle."""
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="1.5" fill="{colour}"/>'


def line(x0: float, y0: float, x1: float, y1: float, style: str) -> str:
    """A line; ``style`` are its attributes."""
    return f'<line x1="{x0:g}" y1="{y0:g}" x2="{x1:g}" y2="{y1:g}" {style}/>'


def svg(width: int, height: int, parts: list[str]) -> str:
    """A file, on white, which the dark pages need."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">'
    return "\n".join([head, box(0, 0, width, height, "white"), *parts, "</svg>"]) + "\n"


def counts_of(name: str) -> tuple[list[int], str]:
    """What a method makes of the budget, layer by layer and in words."""
    kind, options = find_method(name)
    schedule = kind(budget=Budget(average=BUDGET), **options).schedule(PATCHES, LAYERS)
    return schedule.per_layer(LAYERS), shown_counts(schedule, PATCHES, in_percent=False)


def stages() -> str:
    """Where Nüwa's tokens leave: as wide as a layer is, as high as many tokens enter it."""
    counts, _ = counts_of("nuwa")
    (second,) = {at for at in range(1, LAYERS) if counts[at] != counts[at - 1]}
    scale, base, left, wide = 160 / PATCHES, 200, 250, 14
    parts = [text(10, 20, "vision tower", FAINT), box(10, base - PATCHES * scale, 120, PATCHES * scale, KEPT)]
    parts += [text(70, base + 20, f"{PATCHES} tokens", INK, 13, "middle"), text(left, 20, "LLM, layer by layer", FAINT)]
    for layer, count in enumerate(counts):
        parts.append(box(left + layer * wide, base - count * scale, wide - 2, count * scale, KEPT))
    for at, words, count in ((0, "before the LLM", counts[0]), (second, "inside the LLM", counts[second])):
        x = left + at * wide - 1
        parts += [line(x, 60, x, base, f'stroke="{MOVED}" stroke-width="2" stroke-dasharray="5 4"')]
        parts += [text(x + 6, 72, words, MOVED), text(x + 6, 90, f"{count} of {PATCHES} stay", INK)]
    parts += [text(left + at * wide, base + 20, str(at), FAINT, 11) for at in (0, second, LAYERS - 1)]
    return svg(720, 235, [*parts, text(left - 12, base + 20, "layer", FAINT, 11, "end")])


def budgets() -> str:
    """Tokens entering each layer, for methods that spend one budget in different places."""
    scale, base, wide, step = 150 / PATCHES, 205, 5, 185
    parts = []
    for place, name in enumerate(("visionzip", "nuwa", "pyramiddrop", "fastv")):
        counts, words = counts_of(name)
        left = 20 + place * step
        bars = [box(left + at * wide, base - n * scale, wide - 1, n * scale, KEPT) for at, n in enumerate(counts)]
        mean, end = base - BUDGET * scale, left + LAYERS * wide
        parts += [text(left, 22, name), *bars, line(left, mean, end, mean, f'stroke="{MOVED}" stroke-dasharray="4 3"')]
        parts += [text(left, base + 20, words, INK, 11), text(left, base + 36, "layers 0 to 31", FAINT, 11)]
    return svg(4 * step, 250, [*parts, text(22, base - BUDGET * scale - 6, f"mean: {BUDGET}", MOVED, 11)])


SIDE, BEFORE, BEHIND = 4, 3, 3
"""The prompt of the figure of positions: a picture of 4 x 4 tokens between two texts of three."""
STAYS = (2, 5, 6, 9, 10)


def ids_under(strategy: str) -> list[int]:
    """The ids of what is left of the prompt."""
    whole = BEFORE + SIDE**2 + BEHIND
    kept = [*range(BEFORE), *(BEFORE + patch for patch in STAYS), *range(BEFORE + SIDE**2, whole)]
    image = torch.tensor([[0 if BEFORE <= at < BEFORE + SIDE**2 else -1 for at in kept]])
    spans = torch.tensor([BEFORE, BEFORE + SIDE**2 - 1])[:, None, None, None]
    given = torch.tensor(kept)[None, None], image, torch.ones_like(image, dtype=torch.bool), spans
    return remap(strategy, *given, torch.tensor([[whole]]))[0][0, 0].tolist()


def positions() -> str:
    """Ids on a line and, where they are of the picture, on its grid, under every strategy."""
    rows = {
        "pesp": "original ids",
        "perc": "renumbered: the picture shrinks",
        "rpme": "stretched over the span of the picture",
    }
    cell, left, parts = 22, 20, []
    for number, (strategy, words) in enumerate(rows.items()):
        top, grid = 50 + number * 120, left + 24 * cell
        parts += [text(left, top - 16, f"{strategy.upper()}: {words}")]
        parts += [box(left + at * cell, top, cell - 2, cell - 2, EMPTY) for at in range(BEFORE + SIDE**2 + BEHIND)]
        cells = [divmod(at, SIDE) for at in range(SIDE**2)]
        parts += [box(grid + x * cell, top - 26 + y * cell, cell - 2, cell - 2, EMPTY) for y, x in cells]
        for at, place in enumerate(ids_under(strategy)):
            patch = STAYS[at - BEFORE] if 0 <= at - BEFORE < len(STAYS) else None
            there = place - BEFORE
            colour = TEXT if patch is None else KEPT if patch == there else MOVED
            spots = [(left + place * cell, top)]
            if patch is not None:
                spots.append((grid + there % SIDE * cell, top - 26 + there // SIDE * cell))
            for x, y in spots:
                word = "t" if patch is None else str(patch)
                parts += [box(x, y, cell - 2, cell - 2, colour), text(x + 10, y + 15, word, "white", 12, "middle")]
        parts += [text(left + at * cell + 10, top + 38, str(at), FAINT, 10, "middle") for at in range(0, 22, 3)]
    return svg(640, 365, parts)


def examples() -> dict[str, Image.Image]:
    """A held-out scene, and the frames of a held-out clip."""
    scenes, clips = (
        build(typed(compose_job(choices), "dataset"))
        for choices in (["dataset=scenes"], ["model=tiny_video", "dataset=clips"])
    )
    (clip,) = clips[0].videos
    return {"scene.png": scenes[13].images[0]} | {f"clip/{at}.png": frame for at, frame in enumerate(clip.frames)}


DRAWN = {"stages.svg": stages, "budgets.svg": budgets, "positions.svg": positions}

if __name__ == "__main__":
    for name, draw in DRAWN.items():
        (DOCS / "figures" / name).write_text(draw(), encoding="utf-8")
    for name, picture in examples().items():
        picture.save(DOCS / "example" / name, optimize=True)
