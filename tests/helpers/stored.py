"""Pictures as the hub stores them."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

SIZES = ((64, 48), (48, 64), (56, 56))


def picture(seed: int) -> Image.Image:
    """A picture of noise, in one of three sizes."""
    width, height = SIZES[seed % len(SIZES)]
    noise = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height))


def stored(seed: int) -> dict:
    """A picture as the hub stores it."""
    out = io.BytesIO()
    picture(seed).save(out, "JPEG")
    return {"bytes": out.getvalue(), "path": f"{seed}.jpg"}
