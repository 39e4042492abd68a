"""What a cell of a data set may hold: checks whose TypeError or ValueError goes on where the column's name ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nuwa.samples import SampleError, spelt_out

Doc = dict[str, Any]
"""The columns of a row that a prompt or a score depends on."""


def checked(doc: Doc, columns: Mapping[str, Callable[[object], object]]) -> Doc:
    """The document with every cell checked.

    Raises:
        SampleError: a cell is not what its column should hold.
    """
    out = {}
    for column, check in columns.items():
        try:
            out[column] = check(doc[column])
        except (TypeError, ValueError) as error:
            raise SampleError(f"{column} {error}, not {doc[column]!r}") from error
    return out


def a_text(cell: object) -> str:
    """A text that says something."""
    if not a_string(cell).strip():
        raise TypeError("must be a text")
    return cell


def maybe_text(cell: object) -> str:
    """A text; empty if the cell is."""
    return "" if cell is None else a_string(cell)


def a_string(cell: object) -> str:
    """A text that may be empty; neither a tokenizer nor a journal takes lone surrogates."""
    if not isinstance(cell, str):
        raise TypeError("must be a text")
    if cell != spelt_out(cell):
        raise ValueError("must be a text without lone surrogates")
    return cell


def texts(cell: object) -> list[str]:
    """At least one text."""
    if not isinstance(cell, list) or not cell or not all(isinstance(one, str) for one in cell):
        raise TypeError("must be a list of at least one text")
    return [a_string(one) for one in cell]


def identifier(cell: object) -> str:
    """A name or a number, as text."""
    if not isinstance(cell, str | int) or isinstance(cell, bool) or cell == "":
        raise TypeError("must be a name or a number")
    return a_string(str(cell))


def a_letter(cell: object) -> str:
    """The letter of one of four options, in any case."""
    letter = a_text(cell).strip().upper()
    if letter not in ("A", "B", "C", "D"):
        raise ValueError("must be A, B, C or D")
    return letter


def an_integer(cell: object) -> int:
    """A whole number."""
    if not isinstance(cell, int) or isinstance(cell, bool):
        raise TypeError("must be a whole number")
    return cell
