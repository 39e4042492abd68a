"""Command lines: one decorator parses the arguments and turns bad input into one line instead of a traceback."""

from __future__ import annotations

import io
import os
import sys
import traceback
from argparse import ArgumentError, ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any
from unicodedata import category

BAD_INPUT: tuple[type[Exception], ...] = (ValueError, OSError)
"""What is raised for bad input; the messages are written for the person who typed the command."""


def argument(*names: str, **settings: Any) -> Callable[[ArgumentParser], object]:
    """An argument of a `command`, as ``ArgumentParser.add_argument`` takes it."""
    return lambda parser: parser.add_argument(*names, **settings)


def command(
    description: str, *arguments: Callable[[ArgumentParser], object]
) -> Callable[[Callable[[Namespace], int | None]], Callable[..., int]]:
    """Make a function of parsed arguments a ``main(arguments=None)`` that returns an exit status.

    The status is what the function returns (None counts as 0), or 1 after `BAD_INPUT`, which becomes ``error: ...`` on
    stderr. An `argparse.ArgumentError` prints the usage and exits with 2. A reader that
    closes the pipe early ends the command without a word.

    >>> @command("Double a number.", argument("number", type=int))
    ... def main(options):
    ...     print(2 * options.number)
    >>> main(["21"])
    42
    0
    """

    def decorate(function: Callable[[Namespace], int | None]) -> Callable[..., int]:
        @wraps(function)
        def main(given: Sequence[str] | None = None) -> int:
            spec = sys.modules[function.__module__].__spec__  # None in a script, whose name argparse knows
            name = None if spec is None else f"python -m {spec.name.removesuffix('.__main__')}"
            parser = ArgumentParser(name, description=description, formatter_class=RawDescriptionHelpFormatter)
            for add in arguments:
                add(parser)
            options = parser.parse_args(given)
            forgiving_output()
            try:
                status = function(options)
                sys.stdout.flush()
            except ArgumentError as error:
                parser.error(str(error))
            except BrokenPipeError:
                return 1
            except BAD_INPUT as error:
                print_error(error)
                return 1
            return status or 0

        return main

    return decorate


def forgiving_output() -> None:
    """Let a terminal that lacks a sign, as under an ASCII locale, show ``?`` for it instead of ending the program."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def print_error(error: Exception) -> None:
    """One line on stderr; with ``HYDRA_FULL_ERROR=1`` the traceback."""
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        traceback.print_exception(error)
    else:
        print(f"error: {plain_text(str(error))}", file=sys.stderr)


def plain_text(text: str) -> str:
    r"""A text without control characters, which a terminal would obey; line breaks stay.

    >>> plain_text("\x1b]0;title\x07 and\nmore")
    '�]0;title� and\nmore'
    """
    return "".join(sign if sign == "\n" or category(sign)[0] != "C" else "�" for sign in text)
