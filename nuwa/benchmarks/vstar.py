"""V*: small things in large photographs. Source: lmms-eval v0.7.3, task ``vstar_bench``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar

from nuwa.benchmarks import column_checks as column
from nuwa.benchmarks.answers import CHOICES
from nuwa.benchmarks.base import Doc, Scores, headline_first
from nuwa.benchmarks.hub import HubBenchmark, option_lines

_OPTION = re.compile(r"\([A-D]\)")
_FORMS = tuple(
    re.compile(form, re.IGNORECASE)
    for form in (
        r"^([A-D])",
        r"(?:answer|choice|option)(?:\s+is)?[\s:]+([A-D])",
        r"\(([A-D])\)",
        r"([A-D])\s*[.)\]]",
        r"(?:^|\s)([A-D])(?:\s|$)",
    )
)
"""How an answer may write a letter; the first form that is found counts."""


def first_letter(text: str) -> str | None:
    """The letter of a choice, in any case; None if there is none.

    In order: the first character, after "answer is", in brackets, before a sign, alone, the only one anywhere.

    >>> first_letter("the answer is c"), first_letter("It is blue"), first_letter("it is")
    ('C', 'B', None)
    """
    said = text.strip().upper()
    found = next((match for match in (form.search(said) for form in _FORMS) if match), None)
    if found:
        return found[1]
    letters = [sign for sign in said if sign in CHOICES]
    return letters[0] if len(letters) == 1 else None


def on_lines(text: str) -> str:
    """A question whose options ``(A) ... (B) ...`` stand in its text, each on a line of its own.

    lmms-eval loses an option that holds brackets; here it stays.

    >>> on_lines("Which? (A) red (B) blue")
    'Which?\\nA. red\\nB. blue'
    """
    question, *options = _OPTION.split(text)
    return f"{question.strip()}\n{option_lines([one.strip() for one in options])}" if options else text


class VStar(HubBenchmark):
    """Attributes of one thing, or how two stand to each other (``category``). The row's number is its id."""

    task: ClassVar = "vstar_bench"
    columns: ClassVar = {"text": column.text, "label": column.letter, "category": column.text}
    slots: ClassVar = ("question",)
    scored: ClassVar = ("label", "category")

    def fill(self, doc: Doc) -> Mapping[str, str]:
        return {"question": on_lines(doc["text"])}

    def score_document(self, doc: Doc, text: str) -> Scores:
        """Whether `first_letter` is ``doc["label"]``, as a whole and for its category, and whether there is one."""
        letter, whole = first_letter(text), "vstar_bench/accuracy"
        right = float(letter == doc["label"])
        return {whole: right, f"{whole}/{doc['category']}": right, "vstar_bench/parsed": float(letter is not None)}

    def numbers(self, means: Scores) -> Scores:
        return headline_first(means)
