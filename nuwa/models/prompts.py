"""Prompt strings: the user's turn and its images, put into the words a model was trained with. Pure functions.

A format is data (``conf/model/*.yaml``), so a new model needs no code. LLaVA-1.5 speaks `vicuna_v1`; the strings are
facts of haotian-liu/LLaVA (conversation.py, commit c121f04), and tests check them character by character.
"""

from __future__ import annotations

from dataclasses import dataclass

IMAGE = "<image>"


class PromptError(ValueError):
    """A prompt format or a sample's placeholders cannot be used."""


@dataclass(frozen=True)
class PromptFormat:
    """``template`` with the slots ``{images}`` and ``{text}``; what stands between images and what after the last."""

    template: str
    image_joiner: str = " "
    image_end: str = "\n"

    def __post_init__(self) -> None:
        for slot in ("{images}", "{text}"):
            if self.template.count(slot) != 1:
                raise PromptError(f"model.prompt must contain the slot {slot} once, but is {self.template!r}")

    def render(self, text: str, n_images: int) -> str:
        """The full prompt, one ``<image>`` per image (the beginning-of-sequence token is not part of it).

        Images go in front of the text, unless the text places them itself by holding ``<image>`` once per image.

        Raises:
            PromptError: the text holds placeholders, but not as many as there are images.
        """
        placed = text.count(IMAGE)
        if placed and placed != n_images:
            raise PromptError(f"the text holds {placed} {IMAGE} placeholders for {n_images} image(s): {text[:80]!r}")
        lead = "" if placed or not n_images else self.image_joiner.join([IMAGE] * n_images) + self.image_end
        before, after = self.template.split("{images}")
        # The slots are filled one by one and never through str.format: the user's text may hold braces.
        if "{text}" in before:
            before = before.replace("{text}", text)
        else:
            after = after.replace("{text}", text)
        return before + lead + after


def expand_images(prompt: str, tokens_per_image: int) -> str:
    """Repeat every placeholder as often as its image has vision tokens, which is what the model's forward expects."""
    return prompt.replace(IMAGE, IMAGE * tokens_per_image)
