"""The contact sheet of a video: frames in a row, and under them, stage by stage, what of each one goes on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import ceil

import numpy as np
from PIL import Image, ImageColor, ImageDraw

from nuwa.pictures.canvas import KEPT, MOVED, fade, in_a_line
from nuwa.pictures.captions import sheet_legend
from nuwa.pictures.text import FAINT, INK, LINE_HEIGHT, Phrase, font, text_block, width_of
from nuwa.pictures.traces import VideoTrace
from nuwa.pruners.frames import stretches

MOST_FRAMES = 16
"""Frames on a sheet; of longer videos as many at equal distances."""
SIDE, SMALLEST, BETWEEN, CUT, BAR = 168, 4, 12, 4, 56
"""Pixels: a frame's longer side, a cell's side at least, between frames, a cut's width, the bar of a whole frame."""
TINT, GOLDEN = 0.5, 0.618034
"""The share of its colour in a merged cell, and the step from one colour to the next, in turns of the wheel."""


def contact_sheet(trace: VideoTrace, heading: Sequence[Sequence[Phrase]]) -> Image.Image:
    """The frames with their times, a strip for every stage, what is asked and answered above, what marks mean below."""
    frames = len(trace.frames)
    shown = stretches(frames, min(frames, MOST_FRAMES))[1].tolist()
    strips = [time_strip(trace, shown)]
    colours = merged_colours(trace)
    strips += [stage_strip(trace, shown, number, colours) for number in range(len(trace.stages))]
    width = max(4 * SIDE, *(strip.width for strip in strips))  # of one frame there is room for words
    captions = [f"{len(shown)} of {len(trace.video.frames)} frames" + (trace.video.note and f" ({trace.video.note})")]
    captions += [stage_caption(trace, number) for number in range(len(trace.stages))]
    rows = [row for said, strip in zip(captions, strips, strict=True) for row in (line(said, width), strip)]
    marks = sheet_legend(bool(colours), trace.segments is not None)
    return in_a_line([text_block(heading, width), *rows, text_block([marks], width)], down=True)


def line(text: str, width: int) -> Image.Image:
    """A caption over a strip."""
    return text_block([[Phrase(text, FAINT)]], width)


def stage_caption(trace: VideoTrace, number: int) -> str:
    """How many of a video's tokens go on from a stage, and from how many frames."""
    stage, counts = trace.stages[number], trace.counts(number)
    whole, frames = sum(map(len, trace.cells)), sum(count > 0 for count in counts)
    return f"enters layer {stage.layer}: {sum(counts)} of {whole} tokens, of {frames} of {len(counts)} frames"


def time_strip(trace: VideoTrace, shown: Sequence[int]) -> Image.Image:
    """The frames as they are, with their times."""
    strip = [under(trace.frames[frame].resize(size_of(trace)), f"{trace.times[frame]:.1f} s") for frame in shown]
    return joined(trace, shown, strip)


def merged_colours(trace: VideoTrace) -> dict[int, str]:
    """A colour for every token that others went into, those of neighbours far apart on the wheel."""
    sizes = Counter(trace.into)
    merged = [token for token, into in enumerate(trace.into) if token == into and sizes[token] > 1]
    return {token: f"hsv({round(360 * GOLDEN * n) % 360}, 90%, 85%)" for n, token in enumerate(merged)}


def stage_strip(trace: VideoTrace, shown: Sequence[int], number: int, colours: Mapping[int, str]) -> Image.Image:
    """What of each frame goes on from a stage, over a bar of how many tokens that is."""
    counts, strip = trace.counts(number), []
    for frame in shown:
        cells = frame_image(trace, frame, number, colours)
        bar = Image.new("RGB", (cells.width, BAR), "white")
        high = ceil(BAR * counts[frame] / len(trace.cells[frame]))
        bar.paste(KEPT, (0, BAR - high, cells.width, BAR))
        strip.append(under(in_a_line([cells, bar], down=True), str(counts[frame])))
    return joined(trace, shown, strip)


def frame_image(trace: VideoTrace, frame: int, number: int, colours: Mapping[int, str]) -> Image.Image:
    """A frame at a stage: dropped cells faded, kept ones as they are in a frame, merged ones in one colour a token."""
    clear = trace.frames[frame].resize(size_of(trace))
    bright, pixels = np.asarray(clear), np.asarray(fade(clear)).copy()
    side, kept = cell_side(trace), set(trace.stages[number].kept)
    framed = []
    for cell, token in enumerate(trace.cells[frame]):
        y, x = (side * at for at in divmod(cell, trace.grid[1]))
        place, into = (slice(y, y + side), slice(x, x + side)), trace.into[token]
        if token in kept:
            pixels[place] = bright[place]
            framed.append(((x, y, x + side - 1, y + side - 1), colours.get(token, KEPT)))
        if into in kept and into in colours:
            colour = np.array(ImageColor.getrgb(colours[into]))
            pixels[place] = (1 - TINT) * pixels[place] + TINT * colour
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    for box, outline in framed:
        draw.rectangle(box, outline=outline, width=1 + side // 16)
    return image


def cell_side(trace: VideoTrace) -> int:
    """Pixels of a cell's side."""
    return max(SMALLEST, SIDE // max(trace.grid))


def size_of(trace: VideoTrace) -> tuple[int, int]:
    """Pixels of a frame, (width, height)."""
    return trace.grid[1] * cell_side(trace), trace.grid[0] * cell_side(trace)


def under(image: Image.Image, text: str) -> Image.Image:
    """An image with a word in the middle below it."""
    sheet = Image.new("RGB", (image.width, image.height + LINE_HEIGHT), "white")
    sheet.paste(image, (0, 0))
    middle = (image.width - width_of(text)) // 2
    ImageDraw.Draw(sheet).text((middle, image.height + 4), text, fill=INK, font=font())
    return sheet


def joined(trace: VideoTrace, shown: Sequence[int], images: Sequence[Image.Image]) -> Image.Image:
    """Images of frames in a row, with a bar between those of different segments."""
    step, high = images[0].width + BETWEEN, images[0].height
    strip = Image.new("RGB", (step * len(images) - BETWEEN, high), "white")
    draw = ImageDraw.Draw(strip)
    for number, (frame, image) in enumerate(zip(shown, images, strict=True)):
        strip.paste(image, (number * step, 0))
        if number and trace.segments is not None and trace.segments[frame] != trace.segments[shown[number - 1]]:
            left = number * step - BETWEEN // 2 - CUT // 2
            draw.rectangle((left, 0, left + CUT - 1, high - 1), fill=MOVED)
    return strip
