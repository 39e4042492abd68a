"""CV-Bench: counting and spatial relations (2D), depth and distance (3D). Source: lmms-eval v0.7.3, ``cv_bench_2d``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import ClassVar

from nuwa.benchmarks import column_checks as column
from nuwa.benchmarks.base import Doc, Scores, headline_first
from nuwa.benchmarks.hub import HubBenchmark, option_letters
from nuwa.samples import SampleError

_LETTER = re.compile(r"[\s(]*([A-Z])", re.IGNORECASE)


def leading_letter(text: str) -> str | None:
    """The letter that a text begins with, as a capital; brackets may stand before it. None for any other beginning.

    >>> leading_letter("(b) red"), leading_letter("the answer is A"), leading_letter("2")
    ('B', 'T', None)
    """
    found = _LETTER.match(text)
    return found[1].upper() if found else None


class CVBench(HubBenchmark):
    """``prompt`` of a row holds the question and its options; ``{letters}`` names theirs."""

    task: ClassVar = "cv_bench"
    columns: ClassVar = {
        "idx": column.identifier, "prompt": column.text, "choices": column.texts, "answer": column.text,
        "task": column.text, "source": column.text,
    }  # fmt: skip
    keys: ClassVar = ("idx",)
    slots: ClassVar = ("prompt", "letters")
    scored: ClassVar = ("answer", "choices", "task", "source")

    def document(self, doc: Doc, part: int, sizes: Sequence[tuple[int, int]]) -> Doc:
        """The answer, ``(A)``, must be the letter of a choice."""
        letter, letters = doc["answer"].strip("()"), option_letters(doc["choices"])
        if letter not in tuple(letters):
            raise SampleError(f"answer must be the letter of one of {len(letters)} choices, not {doc['answer']!r}")
        return doc | {"answer": letter}

    def fill(self, doc: Doc) -> Mapping[str, str]:
        return {"prompt": doc["prompt"], "letters": ", ".join(option_letters(doc["choices"]))}

    def score_document(self, doc: Doc, text: str) -> Scores:
        """Whether `leading_letter` is right, as a whole, by task and by source; and whether it is one of a choice."""
        letter = leading_letter(text)
        parts = ["", f"/{doc['task']}", f"/{doc['source']}"]
        scores = dict.fromkeys((f"cv_bench/accuracy{part}" for part in parts), float(letter == doc["answer"]))
        return scores | {"cv_bench/parsed": float(letter in tuple(option_letters(doc["choices"])))}

    def numbers(self, means: Scores) -> Scores:
        return headline_first(means)
