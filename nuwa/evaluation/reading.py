"""What lies in a run's folder, read with suspicion: runs are copied, cut short, edited, and made by other versions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

QUOTED = 80  # characters of a wrong value in a message


class UnreadableError(OSError):
    """A file of a run cannot be used; the message says which, where and why."""

    def __init__(self, path: Path, reason: str, line: int | None = None):
        super().__init__(f"unreadable: {path}{'' if line is None else f', line {line}'}: {reason}")


def content_of(path: Path) -> bytes:
    """The bytes of a regular file.

    Raises:
        UnreadableError: it is missing, a folder, a pipe (which would be waited for), or may not be read.
    """
    try:
        if path.exists() and not path.is_file():
            raise UnreadableError(path, "it is a folder" if path.is_dir() else "it is no regular file")
        return path.read_bytes()
    except UnreadableError:
        raise
    except OSError as error:
        raise UnreadableError(path, error.strerror or str(error)) from error


def from_json(text: bytes) -> Any:
    """The value that a JSON text holds.

    Raises:
        ValueError: it is no JSON, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except json.JSONDecodeError as error:
        place = f" in line {error.lineno}" if error.lineno > 1 else ""
        raise ValueError(f"not JSON{place} ({error.msg})") from error
    except ValueError as error:
        raise ValueError(f"not JSON ({error})") from error


def check_shape(value: Any, shape: TypeAdapter) -> None:
    """Refuse a value of another shape, by a ValueError that says what is wrong first."""
    try:
        shape.validate_python(value, strict=True)
    except ValidationError as error:
        raise ValueError(_complaint(error)) from error


def _complaint(error: ValidationError) -> str:
    """The first thing that is wrong: ``scores.vqa/exact_match must be a valid number, not 'high'``."""
    first = error.errors()[0]
    key = ".".join(map(str, first["loc"])) or "it"
    if first["type"] == "missing":
        return f"lacks {key}"
    rule = first["msg"].replace("Input should be", "must be").partition(" or instance of")[0]
    return f"{key} {rule}, not {repr(first['input'])[:QUOTED]}"


def usable_lines(path: Path, shape: TypeAdapter) -> Iterator[Any]:
    """The lines of a file that one can do without: those that have the shape; none if it cannot be read."""
    with suppress(UnreadableError):
        for line in content_of(path).splitlines():
            with suppress(ValueError):
                value = from_json(line)
                check_shape(value, shape)
                yield value
