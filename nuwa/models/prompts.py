"""Prompt strings: the user's turn and its images, put into the words a model was trained with. Pure functions.

A format is data (``conf/model/*.yaml``), so a new model needs no code. LLaVA-1.5 speaks `vicuna_v1`; the strings are
facts of haotian-liu/LLaVA (conversation.py, commit c121f04), and tests check them character by character.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

IMAGE = "<image>"
"""Where a picture goes in a sample's own text, whatever the model calls it."""
VIDEO = "<video>"
"""The same of a video."""


class PromptError(ValueError):
    """A prompt format or a sample's placeholders cannot be used."""


@dataclass(frozen=True)
class PromptFormat:
    """``template`` with the slots ``{images}`` and ``{text}``; what stands between images and what after the last.

    ``image`` is what one picture becomes: the model's placeholder and what the model wraps it in; ``video`` the same of
    a video, None where the model takes none: ``<video>`` is text then. ``turn`` is a further question with the slot
    ``{text}``, from the token that ends the answer before it on; None where there can be none.
    """

    template: str
    image_joiner: str = " "
    image_end: str = "\n"
    image: str = IMAGE
    video: str | None = None
    turn: str | None = None

    def __post_init__(self) -> None:
        for slot in ("{images}", "{text}"):
            if self.template.count(slot) != 1:
                raise PromptError(f"model.prompt must contain the slot {slot} once, but is {self.template!r}")
        if self.turn is not None and self.turn.count("{text}") != 1:
            raise PromptError(f"model.turn must contain the slot {{text}} once, but is {self.turn!r}")

    def render(self, text: str, n_images: int, n_videos: int = 0) -> str:
        """The full prompt, one ``image`` per picture (the beginning-of-sequence token is not part of it).

        Images, then videos go in front of the text, unless the text places them itself by holding ``<image>`` once per
        image, ``<video>`` once per video.

        Raises:
            PromptError: the text holds placeholders, but not as many as there are images.

        >>> PromptFormat("USER: {images}{text} ASSISTANT:").render("Is it red?", 1)
        'USER: <image>\\nIs it red? ASSISTANT:'
        """
        asked, first = text, []
        for mark, shown, count in ((IMAGE, self.image, n_images), (VIDEO, self.video, n_videos)):
            placed = 0 if shown is None else asked.count(mark)
            if placed and placed != count:
                raise PromptError(
                    f"the text holds {placed} {mark} placeholders for {count} {mark[1:-1]}(s): {asked[:80]!r}"
                )
            if shown is not None:
                text = text.replace(mark, shown)
                first += [] if placed else [shown] * count
        lead = self.image_joiner.join(first) + self.image_end if first else ""
        slots = {"{images}": lead, "{text}": text}
        # the template alone is split: the user's text may hold braces
        return "".join(slots.get(part, part) for part in re.split("({images}|{text})", self.template))


def put_images(prompt: str, placeholder: str, texts: Sequence[str]) -> str:
    """A rendered prompt whose i-th ``placeholder`` is ``texts[i]``, the text that stands for a picture, or a video.

    Raises:
        PromptError: the prompt does not hold one placeholder each.

    >>> put_images("<s><image> or <image>?", "<image>", ["<image>" * 2, "<image>"])
    '<s><image><image> or <image>?'
    """
    first, *others = prompt.split(placeholder)
    if len(others) != len(texts):
        raise PromptError(f"the prompt holds {len(others)} {placeholder} placeholder(s) for {len(texts)} of them")
    return first + "".join(text + piece for text, piece in zip(texts, others, strict=True))
