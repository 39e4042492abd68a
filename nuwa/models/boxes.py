"""Boxes in a model's own words, rewritten into fractions of the picture. Pure functions.

LLaVA answers ``[0.12, 0.34, 0.56, 0.78]``; Qwen2.5-VL answers whole pixels of the picture as its tower saw it, resized.
Benchmarks score fractions.
"""

from __future__ import annotations

import re

BOX_FRAMES = ("unit", "pixel")
DECIMALS = 5
"""Enough that a box on a picture of 10,000 pixels moves by less than a tenth of one."""
_PIXEL_BOX = re.compile(r"\[\s*" + r"\s*,\s*".join([r"(-?\d+)"] * 4) + r"\s*\]")


def to_unit_boxes(text: str, size: tuple[int, int]) -> str:
    """Every box of four whole numbers in ``text``, pixels of a (width, height) picture, as LLaVA would have written it.

    Numbers with a decimal point are fractions already and stay.
    """
    width, height = size

    def rewrite(found: re.Match) -> str:
        values = (int(number) / side for number, side in zip(found.groups(), (width, height) * 2, strict=True))
        return "[" + ",".join(f"{value:.{DECIMALS}f}" for value in values) + "]"

    return _PIXEL_BOX.sub(rewrite, text)
