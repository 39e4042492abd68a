"""Small encoded videos of which every frame shows its own number."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

BITS = 16
PIXELS = {"gif": "rgb8", "mjpeg": "yuvj420p"}


def numbered(number: int, width: int = 64, height: int = 64) -> Image.Image:
    """A picture of ``BITS`` black or white columns that spell a number, under a red strip."""
    bits = number >> np.arange(BITS) & 1
    picture = np.repeat(np.repeat(bits[None, :, None] * 255, height, 0), width // BITS, 1).repeat(3, 2).astype(np.uint8)
    picture[: height // 4] = 255, 0, 0
    return Image.fromarray(picture)


def number_of(image: Image.Image) -> int:
    """The number that a picture spells."""
    grey = np.asarray(image.convert("L"), dtype=float)
    columns = grey[grey.shape[0] // 2 :].mean(0).reshape(BITS, -1).mean(1)
    return int(((columns > 127) << np.arange(BITS)).sum())


def write_video(
    path: Path, frames: int | Iterable[Image.Image], rate: int = 30, codec: str = "libx264", **options: str
) -> Path:
    """Encode numbered frames, or given ones; ``options`` are the codec's, but for ``movflags``, which is the file's."""
    import av

    pictures = [numbered(number) for number in range(frames)] if isinstance(frames, int) else list(frames)
    flags = {"movflags": options.pop("movflags")} if "movflags" in options else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    form = {".MP4": "mp4"}.get(path.suffix)
    with av.open(str(path), "w", format=form, options=flags) as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height = pictures[0].size
        stream.pix_fmt = PIXELS.get(codec, "yuv420p")
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode())
    return path
