"""Words on pictures: a scalable font, wrapped lines, ticks, crosses and the swatches of a legend."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

FONT_FILE = Path(__file__).parent / "font" / "DejaVuSans.ttf"

INK, FAINT, TICK_GREEN, CROSS_RED = "#1A1A1A", "#5F5F5F", "#00795A", "#C03A00"
TEXT_SIZE, LINE_HEIGHT, SYMBOL, SYMBOL_GAP = 20, 32, 24, 16
"""Pixels: of a letter, a line, the side of a tick, a cross or a swatch, and between a symbol and what is before it."""

Symbol = Callable[[ImageDraw.ImageDraw, tuple[int, int, int, int]], None]
"""Draws something into a square (x0, y0, x1, y1)."""


@dataclass(frozen=True)
class Phrase:
    """Words in one colour, behind a symbol if there is one."""

    text: str
    colour: str = INK
    symbol: Symbol | None = None


@cache
def font() -> ImageFont.FreeTypeFont:
    """DejaVu Sans, as far as Latin, Greek, Cyrillic and signs go; Pillow's own font has English letters only."""
    return ImageFont.truetype(FONT_FILE, TEXT_SIZE)


def width_of(text: str) -> int:
    """Pixels that a text takes in a line."""
    return round(font().getlength(text))


def tick(draw: ImageDraw.ImageDraw, square: tuple[int, int, int, int]) -> None:
    """A tick: the answer is right."""
    x0, y0, x1, y1 = square
    step = (x1 - x0) / 6
    points = [(x0 + step, y0 + 3.2 * step), (x0 + 2.5 * step, y1 - 1.2 * step), (x1 - step, y0 + 1.3 * step)]
    draw.line(points, fill=TICK_GREEN, width=4, joint="curve")


def cross(draw: ImageDraw.ImageDraw, square: tuple[int, int, int, int]) -> None:
    """A cross: the answer is wrong."""
    x0, y0, x1, y1 = square
    inset = (x1 - x0) // 5
    draw.line([(x0 + inset, y0 + inset), (x1 - inset, y1 - inset)], fill=CROSS_RED, width=4)
    draw.line([(x0 + inset, y1 - inset), (x1 - inset, y0 + inset)], fill=CROSS_RED, width=4)


def text_block(lines: Sequence[Sequence[Phrase]], width: int) -> Image.Image:
    """Paragraphs of phrases, wrapped to ``width`` pixels."""
    laid_out = [line for phrases in lines for line in wrapped(phrases, width - 8)]
    image = Image.new("RGB", (width, LINE_HEIGHT * len(laid_out) + 8), "white")
    draw = ImageDraw.Draw(image)
    for number, line in enumerate(laid_out):
        left, top = 4, 4 + number * LINE_HEIGHT
        for phrase in line:
            if phrase.symbol is not None:
                left += SYMBOL_GAP if left > 4 else 0
                phrase.symbol(draw, (left, top + 2, left + SYMBOL, top + 2 + SYMBOL))
                left += SYMBOL + 6
            draw.text((left, top), phrase.text, fill=phrase.colour, font=font())
            left += width_of(phrase.text)
    return image


def wrapped(phrases: Sequence[Phrase], width: int) -> Iterator[list[Phrase]]:
    """Lines of at most ``width`` pixels. A phrase breaks between words, a longer word anywhere."""
    line: list[Phrase] = []
    left = 0
    for phrase in phrases:
        for number, word in enumerate(_words(phrase.text, width)):
            symbol = phrase.symbol if number == 0 else None
            needed = width_of(word.rstrip()) + (SYMBOL_GAP + SYMBOL + 6 if symbol else 0)
            if line and left + needed > width:
                yield line
                line, left = [], 0
            line.append(Phrase(word, phrase.colour, symbol))
            left += needed + width_of(word) - width_of(word.rstrip())
    if line:
        yield line


def _words(text: str, width: int) -> Iterator[str]:
    """Words with the space behind them, cut where one alone is wider than a line."""
    for word in text.split():
        rest = word
        while width_of(rest) > width and len(rest) > 1:
            fits = next(n for n in range(len(rest) - 1, 0, -1) if n == 1 or width_of(rest[:n]) <= width)
            yield rest[:fits]
            rest = rest[fits:]
        yield rest + " "
