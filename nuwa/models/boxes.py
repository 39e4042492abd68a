"""Boxes in a model's own words, rewritten into fractions of the picture. Pure functions.

LLaVA answers ``[0.12, 0.34, 0.56, 0.78]``; Qwen2.5-VL answers pixels of the picture as its tower saw it, resized;
Qwen2-VL and Qwen3-VL answer thousandths of the picture's sides. Benchmarks score fractions.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from nuwa.models.checkpoint import ModelError

BoxFrame = Literal["unit", "pixel", "thousand"]
DECIMALS = 5
"""Enough that a box on a picture of 10,000 pixels moves by less than a tenth of one."""
LARGEST_FRACTION = 2.0
"""A box with a number from here on is in pixels: no fraction is so far outside of a picture."""
_FOUR = [r"\s*(-?\d+(?:\.\d+)?)\s*"] * 4
_FORMS = (r"\[{},{},{},{}\]", r"\({},{}\)\s*,\s*\({},{}\)")
_BOX = re.compile("|".join(form.format(*_FOUR) for form in _FORMS))


@dataclass(frozen=True, kw_only=True)
class BoxOptions:
    """What ``conf/model`` says about boxes.

    ``box_frame`` says how the model writes them: ``unit``, fractions of the picture, ``pixel``, pixels of the resized
    picture, or ``thousand``, thousandths of its sides. ``box_prompt`` (slot ``{expression}``) is how it was taught to
    be asked for one, null to ask as the benchmark does.

    Raises:
        ModelError: the prompt lacks its slot.
    """

    box_frame: BoxFrame = "unit"
    box_prompt: str | None = None

    def __post_init__(self) -> None:
        if self.box_prompt is not None and "{expression}" not in self.box_prompt:
            raise ModelError(f"model.box_prompt={self.box_prompt!r} lacks the slot {{expression}}")


def to_unit_boxes(text: str, size: tuple[int, int]) -> str:
    """Every box in ``text``, of a frame (width, height), as LLaVA would have written it.

    Four numbers in brackets, or two corners in parentheses. A box whose numbers are all below `LARGEST_FRACTION` holds
    fractions already and stays, ``[0, 0, 1, 1]`` too.

    >>> to_unit_boxes("It is at [20, 10, 100, 50].", (200, 100))
    'It is at [0.10000,0.10000,0.50000,0.50000].'
    >>> to_unit_boxes("(100,200),(500,1000)", (1000, 1000))
    '[0.10000,0.20000,0.50000,1.00000]'
    """

    def rewrite(found: re.Match) -> str:
        numbers = [float(number) for number in found.groups() if number is not None]
        if max(numbers) < LARGEST_FRACTION:
            return found[0]
        values = (number / side for number, side in zip(numbers, size * 2, strict=True))
        return "[" + ",".join(f"{value:.{DECIMALS}f}" for value in values) + "]"

    return _BOX.sub(rewrite, text)
