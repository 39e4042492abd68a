"""VQAv2 and TextVQA: short answers, scored by how many of ten annotators agree. Source: lmms-eval v0.3.4 (a863517)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from nuwa.benchmarks import column_checks as column
from nuwa.benchmarks import evalai
from nuwa.benchmarks.base import Doc, Scores
from nuwa.benchmarks.hub import HubBenchmark


def annotator_answers(value: object) -> list[str]:
    """VQAv2's annotators as their answers: a list of ``{"answer": ...}``, or of texts."""
    found = value if isinstance(value, list) else []
    return column.texts([one.get("answer") if isinstance(one, Mapping) else one for one in found])


@dataclass(kw_only=True, eq=False)
class VQAv2(HubBenchmark):
    """Questions about COCO photographs. lmms-eval v0.3.4 asks the bare question, by a mistake that v0.3.5 mends.

    ``normalise_agreed=False`` is v0.3.4's rule: where all ten annotators agree their answer stays as it is, so that
    "none" or "A" by all of them is never met; elsewhere the model's answer is normalised twice. With ``True`` both
    sides are normalised once, always, as in lmms-eval since #760 and #794.
    """

    normalise_agreed: bool = False

    task: ClassVar = "vqav2"
    columns: ClassVar = {"question_id": column.identifier, "question": column.text, "answers": annotator_answers}
    keys: ClassVar = ("question_id",)
    subject: ClassVar = "image_id"
    scored: ClassVar = ("answers",)

    def score_document(self, doc: Doc, text: str) -> Scores:
        """Soft accuracy for ``doc["answers"]``, ten texts."""
        answers = [evalai.on_one_line(answer) for answer in doc["answers"]]
        said = evalai.on_one_line(text) if self.normalise_agreed else evalai.normalise_vqa(text)
        if self.normalise_agreed or len(set(answers)) > 1:
            said, *answers = (evalai.plain_words(evalai.without_punctuation(one)) for one in (said, *answers))
        return {"vqav2/exact_match": evalai.soft_accuracy(answers, said)}


def ocr_words(value: object) -> list[str]:
    """Words that an OCR system read; a picture may have none."""
    if not isinstance(value, list):
        raise TypeError("must be a list of texts")
    return [column.string(one) for one in value]


class TextVQA(HubBenchmark):
    """Questions about text in pictures. ``{ocr}`` in the prompt is the line of words that an OCR system read."""

    task: ClassVar = "textvqa"
    columns: ClassVar = {
        "question_id": column.identifier, "question": column.text, "answers": column.texts, "ocr_tokens": ocr_words,
    }  # fmt: skip
    keys: ClassVar = ("question_id",)
    subject: ClassVar = "image_id"
    slots: ClassVar = ("question", "ocr")
    scored: ClassVar = ("answers",)

    def fill(self, doc: Doc) -> Mapping[str, str]:
        """``capitalize`` also lowers the rest of the question, as in the reference."""
        return {"question": doc["question"].capitalize(), "ocr": ", ".join(doc["ocr_tokens"])}

    def score_document(self, doc: Doc, text: str) -> Scores:
        """Soft accuracy for ``doc["answers"]``, ten texts, normalised like the prediction."""
        return {"textvqa/exact_match": evalai.vqa_accuracy(doc["answers"], text)}
