"""VQAv2 and TextVQA: short answers, scored by how many of ten annotators agree. Source: lmms-eval v0.3.4 (a863517)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from nuwa.benchmarks import column_checks as column
from nuwa.benchmarks import evalai
from nuwa.benchmarks.base import Doc, Scores
from nuwa.benchmarks.hub import HubBenchmark


def annotator_answers(value: object) -> list[str]:
    """VQAv2's annotators as their answers: a list of ``{"answer": ...}``, or of texts."""
    found = value if isinstance(value, list) else []
    return column.texts([one.get("answer") if isinstance(one, Mapping) else one for one in found])


class VQAv2(HubBenchmark):
    """Questions about COCO photographs. lmms-eval v0.3.4 asks the bare question, by a mistake that v0.3.5 mends."""

    task: ClassVar = "vqav2"
    columns: ClassVar = {"question_id": column.identifier, "question": column.text, "answers": annotator_answers}
    keys: ClassVar = ("question_id",)
    subject: ClassVar = "image_id"
    scored: ClassVar = ("answers",)

    def score_document(self, doc: Doc, text: str) -> Scores:
        """Soft accuracy for ``doc["answers"]``, ten texts, which are normalised only if annotators disagree."""
        answers = [evalai.on_one_line(answer) for answer in doc["answers"]]
        said = evalai.normalise_vqa(text)
        if len(set(answers)) > 1:
            answers = [evalai.plain_words(evalai.without_punctuation(answer)) for answer in answers]
            said = evalai.plain_words(evalai.without_punctuation(said))
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
        answers = [evalai.normalise_vqa(answer) for answer in doc["answers"]]
        return {"textvqa/exact_match": evalai.soft_accuracy(answers, evalai.normalise_vqa(text))}
