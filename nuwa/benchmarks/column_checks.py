"""What the columns of a data set may hold.

A check takes a value and returns it, made plain. The TypeError or ValueError that it raises goes on where the column's
name ends ("must be a text").
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from reprlib import Repr
from typing import Any

from nuwa.benchmarks.base import Doc
from nuwa.samples import SampleError, spelt_out

Check = Callable[[object], object]
_SHORT = Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict = 6, 50, 50
_SHORT.maxstring, _SHORT.maxlong, _SHORT.maxother = 500, 100, 100


def checked(doc: Mapping[str, Any], columns: Mapping[str, Check]) -> Doc:
    """The columns of a document, each value checked.

    Raises:
        SampleError: a value is not what its column should hold.
    """
    out = {}
    for column, check in columns.items():
        try:
            out[column] = check(doc[column])
        except (TypeError, ValueError) as error:
            raise SampleError(f"{column} {error}, not {shown(doc[column])}") from error
    return out


def shown(value: object) -> str:
    """A value as a message shows it, however long, large or deep it is.

    >>> shown([[[[[[["deep"]]]]]]]), len(shown(10**4000))
    ('[[[[[[[...]]]]]]]', 100)
    """
    return _SHORT.repr(value)


def wording(value: object) -> str:
    """A text as it is, anything else as it is shown."""
    return value if isinstance(value, str) else shown(value)


def text(value: object) -> str:
    """A text that says something."""
    words = string(value)
    if not words.strip():
        raise TypeError("must be a text")
    return words


def optional_text(value: object) -> str:
    """A text; "" where the value is missing."""
    return "" if value is None else string(value)


def string(value: object) -> str:
    """A text that may be empty; neither a tokenizer nor a journal takes lone surrogates."""
    if not isinstance(value, str):
        raise TypeError("must be a text")
    if value != spelt_out(value):
        raise ValueError("must be a text without lone surrogates")
    return value


def texts(value: object) -> list[str]:
    """At least one text."""
    if not isinstance(value, list) or not value or not all(isinstance(one, str) for one in value):
        raise TypeError("must be a list of at least one text")
    return [string(one) for one in value]


def accepted(value: object) -> tuple[str, ...]:
    """One or several accepted answers as texts, one of which says something; finite numbers count as answers too.

    >>> accepted("yes"), accepted([3.0, 0.5, 7])
    (('yes',), ('3', '0.5', '7'))
    """
    answers = value if isinstance(value, list) else [value]
    if not answers or not all(isinstance(one, str) or _is_number(one) for one in answers):
        raise TypeError("must be a text or a list of texts")
    words = tuple(string(f"{one:.0f}" if isinstance(one, float) and one.is_integer() else str(one)) for one in answers)
    if not any(map(str.strip, words)):
        raise ValueError("must not be blank")
    return words


def identifier(value: object) -> str:
    """A name or a number, as text."""
    if not isinstance(value, str | int) or isinstance(value, bool) or value == "":
        raise TypeError("must be a name or a number")
    return string(str(value))


def letter(value: object) -> str:
    """The letter of one of four options, in any case."""
    found = text(value).strip().upper()
    if found not in ("A", "B", "C", "D"):
        raise ValueError("must be A, B, C or D")
    return found


def integer(value: object) -> int:
    """A whole number."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError("must be a whole number")
    return value


def four_numbers(value: object) -> list[float]:
    """Four finite numbers; a whole number beyond the range of floats is none."""
    numbers = value if isinstance(value, list) else []
    if len(numbers) != 4 or not all(map(_is_number, numbers)):
        raise TypeError("must be four numbers")
    return numbers


def _is_number(value: object) -> bool:
    """Whether it is a finite number, within the range of floats."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
