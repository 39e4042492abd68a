"""VizWiz: questions by blind people about their own photographs. Source: lmms-eval v0.7.3, task ``vizwiz_vqa_val``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from nuwa.benchmarks import column_checks as column
from nuwa.benchmarks.base import Doc, Scores
from nuwa.benchmarks.evalai import vqa_accuracy
from nuwa.benchmarks.hub import HubBenchmark


class VizWiz(HubBenchmark):
    """Ten annotators, of whom some may say that the picture does not tell."""

    task: ClassVar = "vizwiz_vqa"
    columns: ClassVar = {"question_id": column.identifier, "question": column.text, "answers": column.texts}
    keys: ClassVar = ("question_id",)
    scored: ClassVar = ("answers",)

    def fill(self, doc: Doc) -> Mapping[str, str]:
        """``capitalize`` also lowers the rest of the question, as in the reference."""
        return {"question": doc["question"].capitalize()}

    def score_document(self, doc: Doc, text: str) -> Scores:
        """Soft accuracy for ``doc["answers"]``, normalised like the prediction."""
        return {"vizwiz_vqa/exact_match": vqa_accuracy(doc["answers"], text)}
