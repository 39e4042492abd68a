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


class PromptError(ValueError):
    """A prompt format or a sample's placeholders cannot be used."""


@dataclass(frozen=True)
class PromptFormat:
    """``template`` with the slots ``{images}`` and ``{text}``; what stands between images and what after the last.

    ``image`` is what one picture becomes: the model's placeholder and what the model wraps it in. ``turn`` is a further
    question with the slot ``{text}``, from the token that ends the answer before it on; None where there can be none.
    """

    template: str
    image_joiner: str = " "
    image_end: str = "\n"
    image: str = IMAGE
    turn: str | None = None

    def __post_init__(self) -> None:
        for slot in ("{images}", "{text}"):
            if self.template.count(slot) != 1:
                raise PromptError(f"model.prompt must contain the slot {slot} once, but is {self.template!r}")
        if self.turn is not None and self.turn.count("{text}") != 1:
            raise PromptError(f"model.turn must contain the slot {{text}} once, but is {self.turn!r}")

    def render(self, text: str, n_images: int) -> str:
        """The full prompt, one ``image`` per picture (the beginning-of-sequence token is not part of it).

        Images go in front of the text, unless the text places them itself by holding ``<image>`` once per image.

        Raises:
            PromptError: the text holds placeholders, but not as many as there are images.

        >>> PromptFormat("USER: {images}{text} ASSISTANT:").render("Is it red?", 1)
        'USER: <image>\\nIs it red? ASSISTANT:'
        """
        placed = text.count(IMAGE)
        if placed and placed != n_images:
            raise PromptError(f"the text holds {placed} {IMAGE} placeholders for {n_images} image(s): {text[:80]!r}")
        text = text.replace(IMAGE, self.image)
        lead = "" if placed or not n_images else self.image_joiner.join([self.image] * n_images) + self.image_end
        slots = {"{images}": lead, "{text}": text}
        # the template alone is split: the user's text may hold braces
        return "".join(slots.get(part, part) for part in re.split("({images}|{text})", self.template))


def put_images(prompt: str, placeholder: str, texts: Sequence[str]) -> str:
    """A rendered prompt whose i-th ``placeholder`` is ``texts[i]``, the text that stands for a picture.

    Raises:
        PromptError: the prompt does not hold one placeholder per picture.

    >>> put_images("<s><image> or <image>?", "<image>", ["<image>" * 2, "<image>"])
    '<s><image><image> or <image>?'
    """
    first, *others = prompt.split(placeholder)
    if len(others) != len(texts):
        raise PromptError(f"the prompt holds {len(others)} image placeholder(s) for {len(texts)} image(s)")
    return first + "".join(text + piece for text, piece in zip(texts, others, strict=True))
