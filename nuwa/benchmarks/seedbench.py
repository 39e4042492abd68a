"""SEED-Bench's questions about pictures. Source: lmms-eval v0.3.4 (a863517), task ``seedbench``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from nuwa.benchmarks import column_checks as column
from nuwa.benchmarks.base import Doc, Scores
from nuwa.benchmarks.hub import Entry, HubBenchmark, option_lines

_CHOICES = tuple(f"choice_{letter}" for letter in "abcd")


@dataclass(kw_only=True, eq=False)
class SEEDBench(HubBenchmark):
    """Rows of one ``data_type``; a row may have several pictures."""

    data_type: str = "image"

    task: ClassVar = "seed_image"
    columns: ClassVar = {
        "question": column.text, "answer": column.letter, **dict.fromkeys(_CHOICES, column.string),
    }  # fmt: skip
    keys: ClassVar = ("question_id", "data_type")
    slots: ClassVar = ("question", "options")
    scored: ClassVar = ("answer",)

    def entries(self, row: int, keys: Doc) -> Iterator[Entry]:
        if keys["data_type"] == self.data_type:
            yield f"{row}-{column.identifier(keys['question_id'])}", None

    def fill(self, doc: Doc) -> Mapping[str, str]:
        return {"question": doc["question"], "options": option_lines([doc[choice] for choice in _CHOICES])}

    def score_document(self, doc: Doc, text: str) -> Scores:
        """Whether the first character of the answer is the letter, in any case ("a dog" counts as A), or any letter."""
        said = text.strip()[:1].lower()
        right = said == doc["answer"].strip().lower()
        return {"seed_image/accuracy": float(right), "seed_image/parsed": float(said in ("a", "b", "c", "d"))}
