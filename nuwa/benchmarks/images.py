"""Pictures of a data set: bytes in a table, or files of a folder, to upright RGB."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from nuwa.benchmarks.column_checks import shown
from nuwa.samples import PassingError, SampleError, to_rgb

HARMLESS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "AVIF", "TGA", "ICO")
"""What pictures are opened as. Other decoders of Pillow start programs (EPS: Ghostscript) or are hardly ever used."""
_STORED_SIZE = "stored size"


def stored_image(value: object, folder: Path | None) -> Image.Image:
    """A picture as the hub stores it (``{"bytes", "path"}``), as its bytes, or as a file name below ``folder``.

    Raises:
        SampleError: it is neither, or not a whole picture.
    """
    content, name = (value.get("bytes"), value.get("path")) if isinstance(value, Mapping) else (value, value)
    if isinstance(content, bytes):
        return _decoded(io.BytesIO(content), f"image {name}" if isinstance(name, str) and name else "image")
    if not isinstance(name, str) or not name or folder is None:
        raise SampleError(f"a picture must be its bytes or a file name, not {shown(value)}")
    return read_image(folder, name)


def read_image(folder: Path, name: str) -> Image.Image:
    """The picture in a file inside ``folder``.

    Raises:
        SampleError: as `located` says it, or it is not a whole picture.
        PassingError: it is missing, or the disk fails.
    """
    return _decoded(located(folder, name, "image"), f"image {name}")


def located(folder: Path, name: str, what: str) -> Path:
    """Where a file of ``folder`` is, by its name; ``what`` it is. Of a video it may be a folder.

    Raises:
        SampleError: it is outside the folder, or its name can be no file's.
        PassingError: it is missing.
    """
    try:
        file = (folder / name).resolve()
        exists = file.is_file() or (what == "video" and file.is_dir())
    except (OSError, ValueError, RuntimeError) as error:  # a RuntimeError where links lead in a circle
        raise SampleError(
            f"{what} {shown(name)} can be no file: {getattr(error, 'strerror', None) or error}"
        ) from error
    if not file.is_relative_to(folder.resolve()):
        raise SampleError(f"{what} {name} leads outside the folder {folder}")
    if not exists:
        wrong = "is a folder, not a file," if file.is_dir() else "does not exist"
        raise PassingError(f"{what} {name} {wrong} in {folder}")
    return file


@cache
def readable_formats() -> tuple[str, ...]:
    """Those of `HARMLESS` that this Pillow knows."""
    Image.init()
    return tuple(name for name in HARMLESS if name in Image.OPEN)


def _decoded(content: Path | io.BytesIO, what: str) -> Image.Image:
    """Decode a picture and turn it upright by its EXIF orientation."""
    with decoding_of(what), Image.open(content, formats=readable_formats()) as image:
        upright = to_rgb(ImageOps.exif_transpose(image))
        if upright.size != image.size:
            upright.info[_STORED_SIZE] = image.size
        return upright


@contextmanager
def decoding_of(what: str) -> Iterator[None]:
    """Make of whatever a decoder raises a SampleError about ``what``, a PassingError if it is the disk's."""
    try:
        yield
    except Exception as error:  # decoders raise many kinds of errors on broken files
        passing = isinstance(error, OSError) and error.errno is not None  # the disk's, not the decoder's
        said = "it is no picture of a known kind" if isinstance(error, UnidentifiedImageError) else error
        raise (PassingError if passing else SampleError)(f"{what} cannot be read: {said}") from error


@contextmanager
def about_turned(images: Sequence[Image.Image]) -> Iterator[None]:
    """Add to a SampleError about a size or a box which photograph was turned by its EXIF orientation, if one was."""
    try:
        yield
    except SampleError as error:
        stored = [image.info[_STORED_SIZE] for image in images if _STORED_SIZE in image.info]
        if not stored:
            raise
        sizes = ", ".join(f"{width} x {height}" for width, height in stored)
        raise SampleError(
            f"{error}; the photograph is stored as {sizes} and was turned upright by its EXIF orientation: "
            "boxes are of the upright picture"
        ) from error
