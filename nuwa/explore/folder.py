"""The folder that is written: a page, data as scripts that call ``explorer.add``, and pictures.

A page that is opened from disk may read neither JSON nor modules, only scripts and pictures.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from PIL import Image

PAGE = Path(__file__).parent / "page"
INDEX_NAME = "index"
PICTURE_SIDE, THUMBNAIL_SIDE = 336, 144
"""Pixels of the longer side of a picture."""


def prepare_folder(out: Path) -> None:
    """Make the folder, with the page in it and without the data of an earlier call.

    Raises:
        ValueError: it holds something else.
    """
    if out.exists() and any(out.iterdir()) and not (out / "page" / "app.js").is_file():
        raise ValueError(f"--out {out}: it holds something else than an explorer; name another folder")
    for name in ("data", "pictures", "page"):
        shutil.rmtree(out / name, ignore_errors=True)
    for name in ("data", "pictures"):
        (out / name).mkdir(parents=True)
    shutil.copytree(PAGE, out / "page", ignore=shutil.ignore_patterns("index.html"))
    shutil.copyfile(PAGE / "index.html", out / "index.html")


def write_data(out: Path, name: str, value: Any) -> None:
    """A value under a name, as a script."""
    (out / "data" / f"{name}.js").write_text(script(name, value), encoding="utf-8")


def script(name: str, value: Any) -> str:
    r"""A call that hands over a value, safe inside a page: without ``<`` and line separators.

    >>> script("a", "</script>")
    'explorer.add("a", "\\u003c/script>");\n'
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for sign in "<\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return f"explorer.add({json.dumps(name)}, {text});\n"


def write_picture(out: Path, name: str, picture: Image.Image, side: int) -> str:
    """Its path from the page, of a picture with at most ``side`` pixels a side."""
    small = picture.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    path = f"pictures/{name}.webp"
    small.save(out / path, quality=80, method=4)
    return path
