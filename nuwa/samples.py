"""One question to a model, and what may be wrong with it: what benchmarks make and models read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image


class Refusal(ValueError):
    """A reason that can be written, whatever it quotes."""

    def __init__(self, reason: str):
        super().__init__(spelt_out(reason))


class SampleError(Refusal):
    """One sample cannot be used (unreadable image, malformed row), the message says why; a run records it, goes on."""


class PassingError(SampleError):
    """A sample cannot be used now, for a reason that may pass, as a missing file: the same command tries it again."""


def spelt_out(text: str) -> str:
    """Text that can be written: lone surrogates, which JSON can hold and UTF-8 cannot, become their escapes."""
    return text.encode(errors="backslashreplace").decode()


@dataclass(frozen=True)
class Video:
    """Frames of a video, in order, and the time of each in seconds.

    ``note`` is what a person should know about them: a file that ends early, for instance.
    """

    frames: tuple[Image.Image, ...]
    times: tuple[float, ...]
    note: str = ""


@dataclass(frozen=True)
class Sample:
    """One question to a model.

    ``text`` is the user's turn with the task's prompt, without image placeholders. ``target`` is what the benchmark's
    ``score`` compares with, JSON-able: accepted answers (tuple of strings) for ``task="vqa"``, a box (x0, y0, x1, y1)
    in 0..1 of the original picture for ``task="vg"``, columns by name for published data sets. ``meta`` holds JSON-able
    facts worth recording. ``expression`` is what to find, alone, for models that are asked for boxes in words of their
    own.
    """

    id: str
    task: str
    images: tuple[Image.Image, ...]
    text: str
    target: Any
    meta: Mapping[str, Any] = field(default_factory=dict)
    expression: str | None = None
    videos: tuple[Video, ...] = ()

    @classmethod
    def ask(cls, text: str, *images: Image.Image, videos: Sequence[Video] = ()) -> Sample:
        """A question of one's own, without an answer to compare with."""
        return cls("question", "ask", images, text, None, videos=tuple(videos))

    @property
    def image_ids(self) -> list[str]:
        """A name for every picture, then video, by which methods that draw at random draw the same in any batch."""
        visuals = len(self.images) + len(self.videos)
        return [self.id] if visuals == 1 else [f"{self.id}#{number}" for number in range(visuals)]


def visual_ids(samples: Sequence[Sample]) -> list[str] | None:
    """The `Sample.image_ids` of a batch as sessions want them: all pictures, then all videos; None without any."""
    pictures = [name for one in samples for name in one.image_ids[: len(one.images)]]
    return pictures + [name for one in samples for name in one.image_ids[len(one.images) :]] or None


def to_rgb(image: Image.Image) -> Image.Image:
    """Any PIL mode to 8-bit RGB: alpha is dropped, as LLaVA does; 16-bit grey is scaled, which PIL alone would clip.

    A colour that a PNG calls transparent is dropped as such, too: transformers 5.24 lays it on white, 5.19 does not.
    """
    if image.mode == "I" or image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image).astype(np.int64).clip(0, 65535) // 256).astype(np.uint8))
    if image.mode != "RGB" or "transparency" in image.info:
        image = image.convert("RGB")
        image.info.pop("transparency", None)
    return image
