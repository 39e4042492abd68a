"""Command lines: one decorator parses the arguments and turns bad input into one line instead of a traceback."""

from __future__ import annotations

import io
import os
import sys
import traceback
from argparse import ArgumentError, ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any
from unicodedata import category

BAD_INPUT: tuple[type[Exception], ...] = (ValueError, OSError)
"""What is raised for bad input; the messages are written for the person who typed the command."""
COMMANDS = {
    "run": ("nuwa.launch", "run one job, or a sweep of jobs with -m, and print a table"),
    "ask": ("nuwa.ask", "questions about one picture: pruned and unpruned answers, times, and what was kept"),
    "demo": ("nuwa.demo", "the same on a web page: upload, choose methods, budgets and positions, side by side"),
    "report": ("nuwa.report", "tables and plots of runs, alone or beside the papers' printed numbers"),
    "compare": ("nuwa.report.compare", "runs on the same samples, in pairs, with p-values"),
    "retention": ("nuwa.report.retention", "what runs retain of the unpruned model, as a mean over benchmarks"),
    "profile": ("nuwa.report.profile", "what methods retain, by ability: answering, grounding, reading, ..."),
    "choose": ("nuwa.report.choose", "the cheapest way of pruning that loses at most so much, and how sure that is"),
    "failures": ("nuwa.report.failures", "samples that one run answers and another one does not"),
    "pictures": ("nuwa.report.pictures", "draw which tokens a run kept"),
    "explore": ("nuwa.explore", "a page, opened from disk, with every sample, answer and token of runs"),
    "export": ("nuwa.export", "a run as a config file and as lines of Python that find the same answers"),
    "serve": ("nuwa.serve", "an OpenAI-compatible server (vLLM) with a pruned model"),
    "judge": ("nuwa.judge", "mark MM-Vet answers that were saved without a judge"),
    "submission": ("nuwa.submission", "write what EgoSchema's validation server takes"),
    "methods": ("nuwa.report.methods", "which pruning method is which, and what a budget becomes"),
}
"""What the program `nuwa` can do: a module that runs with ``python -m``, and what for."""


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
            parser = ArgumentParser(
                _typed_as(function.__module__), description=description, formatter_class=RawDescriptionHelpFormatter
            )
            for add in arguments:
                add(parser)
            options = parser.parse_intermixed_args(given)
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


def _typed_as(module: str) -> str | None:
    """What starts a module: ``nuwa <command>``, or ``python -m``; None of a script, whose name argparse knows."""
    spec = sys.modules[module].__spec__
    if spec is None:
        return None
    found = spec.name.removesuffix(".__main__")
    names = {target: f"nuwa {name}" for name, (target, _) in COMMANDS.items()}
    return names.get(found, f"python -m {found}")


def forgiving_output() -> None:
    """Let a terminal that lacks a sign, as under an ASCII locale, show ``?`` for it instead of ending the program."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


class _Unheard(io.TextIOWrapper):
    """Standard output that goes to nowhere once its reader has left."""

    def write(self, text: str) -> int:
        with self._going_on():
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with self._going_on():
            super().flush()

    @contextmanager
    def _going_on(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())


def without_reader() -> None:
    """Let the program go on in silence when the reader of its output leaves, as ``| head`` does."""
    if sys.stdout is sys.__stdout__ and isinstance(sys.stdout, io.TextIOWrapper):
        encoding, at_once = sys.stdout.encoding, sys.stdout.line_buffering
        sys.stdout = _Unheard(sys.stdout.detach(), encoding, "replace", line_buffering=at_once)


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
