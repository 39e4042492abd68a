"""OCRBench: reading text of ten kinds. Right is an answer that holds the words asked for.

Source: lmms-eval v0.7.3, task ``ocrbench``. Papers print points: a thousand times the accuracy over the thousand rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from nuwa.benchmarks import column_checks as column
from nuwa.benchmarks.base import Doc, Scores, headline_first
from nuwa.benchmarks.hub import HubBenchmark

RECOGNITION = (
    "Regular Text Recognition", "Irregular Text Recognition", "Artistic Text Recognition", "Handwriting Recognition",
    "Digit String Recognition", "Non-Semantic Text Recognition",
)  # fmt: skip
"""The kinds of question that papers sum up as text recognition."""
FORMULAS = "HME100k"
"""The source of handwritten formulas, where case counts and blanks do not."""
_HALF_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: " "}


def holds(text: str, answer: str, formula: bool = False) -> bool:
    """Whether a text contains an answer, in any case and with full-width signs as plain ones; of a formula, literally.

    >>> holds("It says Ｓtop.", "STOP"), holds("x ^ 2", "x^2"), holds("x ^ 2", "x^2", formula=True)
    (True, False, True)
    """
    asked, said = (
        one.strip().replace("\n", "").replace(" ", "")
        if formula
        else one.translate(_HALF_WIDTH).lower().strip().replace("\n", " ")
        for one in (answer, text)
    )
    return asked in said


def words(value: object) -> tuple[str, ...]:
    """Accepted answers, none of them blank: every text holds that."""
    found = column.accepted(value)
    if not all(answer.strip() for answer in found):
        raise ValueError("must not be blank, which every text holds")
    return found


class OCRBench(HubBenchmark):
    """Rows have no id: their number is it."""

    task: ClassVar = "ocrbench"
    columns: ClassVar = {
        "question": column.text, "answer": words, "dataset": column.text, "question_type": column.text,
    }  # fmt: skip
    scored: ClassVar = ("answer", "dataset", "question_type")

    def fill(self, doc: Doc) -> Mapping[str, str]:
        return {"question": doc["question"].strip()}

    def score_document(self, doc: Doc, text: str) -> Scores:
        """Whether the answer holds one of ``doc["answer"]``, as a whole and for its kind of question."""
        right = float(any(holds(text, answer, doc["dataset"] == FORMULAS) for answer in doc["answer"]))
        kinds = [doc["question_type"]] + ["Recognition"] * (doc["question_type"] in RECOGNITION)
        return {"ocrbench/accuracy": right} | {f"ocrbench/accuracy/{kind}": right for kind in kinds}

    def numbers(self, means: Scores) -> Scores:
        return headline_first(means)
