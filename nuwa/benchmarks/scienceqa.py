"""ScienceQA's questions with a picture. Source: lmms-eval v0.3.4 (a863517), task ``scienceqa_img``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from nuwa.benchmarks import column_checks as column
from nuwa.benchmarks.base import Doc, Scores
from nuwa.benchmarks.hub import LETTERS, HubBenchmark, option_letters, option_lines
from nuwa.samples import SampleError

_PREFIX = re.compile(r"([A-Z])\.")


@dataclass(kw_only=True, eq=False)
class ScienceQA(HubBenchmark):
    """Rows have no id: their number is it."""

    accept_prefix: bool = False

    task: ClassVar = "scienceqa"
    columns: ClassVar = {
        "question": column.text, "choices": column.texts, "answer": column.integer, "hint": column.optional_text,
    }  # fmt: skip
    slots: ClassVar = ("question", "context", "options")
    scored: ClassVar = ("answer",)

    def document(self, doc: Doc, part: int, sizes: Sequence[tuple[int, int]]) -> Doc:
        """The answer must be the place of a choice, counted from 0."""
        letters = option_letters(doc["choices"])
        if not 0 <= doc["answer"] < len(letters):
            raise SampleError(f"answer must be the place of one of {len(letters)} choices, not {doc['answer']}")
        return doc

    def fill(self, doc: Doc) -> Mapping[str, str]:
        context = f"Context: {doc['hint']}\n" if doc["hint"] else ""
        return {"question": doc["question"], "context": context, "options": option_lines(doc["choices"])}

    def score_document(self, doc: Doc, text: str) -> Scores:
        """Right if the answer is the letter alone, in any case; parsed if it is any letter alone.

        ``accept_prefix`` takes "A. the dog" too, as later versions of lmms-eval do; v0.3.4 meant to, but does not.
        """
        said, found = text.strip(), _PREFIX.match(text.strip())
        if self.accept_prefix and found:
            said = found[1]
        right = said.lower() == LETTERS[doc["answer"]].lower()
        return {"scienceqa/exact_match": float(right), "scienceqa/parsed": float(said.upper() in tuple(LETTERS))}
