"""What stands above and below a picture: the question, the answer and whether it is right; what the marks mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from PIL import ImageDraw

from nuwa.pictures.canvas import (
    COLLECTOR,
    KEPT,
    LINK,
    MOVED,
    PREDICTED,
    TRUE_BOX,
    draw_box,
    mark_collector,
    mark_coordinate,
    mark_kept,
    mark_pillar,
)
from nuwa.pictures.text import FAINT, INK, Phrase, Symbol, cross, tick
from nuwa.pictures.traces import ViewTrace

_LONGEST = 400
"""Letters of a question, an answer or a target that are shown."""


def title_lines(method: str, question: str, row: Mapping[str, Any], is_box: bool) -> list[list[Phrase]]:
    """The method, the question, and the answer with a tick, a cross or its score; the target where it is no box."""
    answer = [Phrase("answer", FAINT), Phrase(shortened(row["prediction"]) or "(empty)", INK, _verdict(row))]
    score = _first_score(row)
    if score is not None and score not in (0, 1):
        answer.append(Phrase(f"score {score:.2f}", FAINT))
    if not is_box and row.get("target"):
        answer += [Phrase("· expected", FAINT), Phrase(shortened(target_text(row["target"])))]
    return [[Phrase(method, FAINT)], [Phrase(shortened(question))], answer]


def legend(views: Sequence[ViewTrace], boxes: set[str], ids: bool, coordinates: bool = False) -> list[Phrase]:
    """A swatch and a word for every mark that the panels show."""
    found = [("kept", _framed(mark_kept))]
    if any(view.collectors for view in views):
        found.append(("collector: gathered others", _framed(mark_collector)))
    if any(view.pillars for view in views):
        found.append(("pillar: stays as it is", _framed(mark_pillar)))
    if coordinates:
        found.append(("stays in any case", _framed(mark_coordinate)))
    if any(view.weights for view in views):
        found.append(("what the framed collector gathered", _line(LINK)))
    if "true" in boxes:
        found.append(("true box", _boxed(TRUE_BOX, dashed=False)))
    if "predicted" in boxes:
        found.append(("predicted box", _boxed(PREDICTED, dashed=True)))
    if ids:
        found += [("id in place", _dot(KEPT)), ("id moved", _dot(MOVED))]
    return [Phrase(text, FAINT, symbol) for text, symbol in found]


def sheet_legend(merged: bool, cuts: bool) -> list[Phrase]:
    """The same for the marks of a video's contact sheet."""
    found = [("kept", _framed(mark_kept))]
    if merged:
        found.append(("one colour: merged into one token, at its framed cell", _merged))
    if cuts:
        found.append(("between segments", _line(MOVED)))
    found.append(("tokens of a frame, as a share of its cells", _bar))
    return [Phrase(text, FAINT, symbol) for text, symbol in found]


def _first_score(row: Mapping[str, Any]) -> float | None:
    return next(iter((row.get("scores") or {}).values()), None)


def _verdict(row: Mapping[str, Any]) -> Symbol | None:
    score = _first_score(row)
    return tick if score == 1 else cross if score == 0 else None


def target_text(target: Any) -> str:
    """A target as text: of several accepted answers the first ones."""
    if isinstance(target, Mapping):
        target = next((target[name] for name in ("answer", "answers") if name in target), "")
    if isinstance(target, list | tuple):
        return " / ".join(dict.fromkeys(str(answer) for answer in target))
    return str(target)


def shortened(text: str) -> str:
    """The beginning of a text that is too long to be shown."""
    return text if len(text) <= _LONGEST else text[:_LONGEST] + " ..."


def _framed(mark: Callable[[ImageDraw.ImageDraw, tuple[float, float, float, float]], None]) -> Symbol:
    return lambda draw, square: mark(draw, square)


def _merged(draw: ImageDraw.ImageDraw, square: tuple[int, int, int, int]) -> None:
    x0, y0, x1, y1 = square
    for start, colour in ((x0, COLLECTOR), ((x0 + x1) // 2, LINK)):
        draw.rectangle((start, y0, start + (x1 - x0) // 2 - 2, y1), fill=colour)


def _bar(draw: ImageDraw.ImageDraw, square: tuple[int, int, int, int]) -> None:
    x0, y0, x1, y1 = square
    draw.rectangle((x0, (y0 + y1) // 2, x1, y1), fill=KEPT)


def _boxed(colour: str, dashed: bool) -> Symbol:
    return lambda draw, square: draw_box(
        draw, (square[0] + 3, square[1] + 3, square[2] - 3, square[3] - 3), colour, dashed
    )


def _line(colour: str) -> Symbol:
    return lambda draw, square: draw.line(
        [(square[0], square[3] - 4), (square[2], square[1] + 4)], fill=colour, width=4
    )


def _dot(colour: str) -> Symbol:
    return lambda draw, square: draw.ellipse((square[0] + 6, square[1] + 6, square[2] - 6, square[3] - 6), fill=colour)
