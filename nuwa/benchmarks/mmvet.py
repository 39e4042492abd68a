"""MM-Vet: open answers, marked by a language model. Source: lmms-eval v0.3.4 (a863517), task ``mmvet``.

Without a judge the answers are saved and there is no score. The judge's prompt here is this project's own wording of
MM-Vet's rules; for numbers to compare with published ones, give MM-Vet's prompt (github.com/yuweihao/MM-Vet) as
``dataset.judge_prompt``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from nuwa.benchmarks import column_checks as column
from nuwa.benchmarks.base import BenchmarkError, Doc, Scores
from nuwa.benchmarks.hub import HubBenchmark, fill_slots
from nuwa.benchmarks.judge import Judge, OpenAIJudge, Patience

PARSED = "mmvet/parsed"
"""1 where the judge's reply was a mark."""
CAPABILITIES = ("rec", "ocr", "know", "gen", "spat", "math")
TEMPERATURES = (0.0, 0.5, 1.0, 1.5)
"""After a reply that is no mark the judge is asked again at the next; after the last one the mark is 0, and unread."""
JUDGE_PROMPT = """You mark answers to questions about pictures, from 0.0 (all wrong) to 1.0 (all right) in steps of 0.1.
In the reference, <AND> joins parts that must all be in the answer, and <OR> joins parts of which one is enough.
Example: question "Which fruits are there?", reference "apple<AND>pear", answer "There is an apple." gets 0.5.
Reply with the number alone.

Question: {question}
Reference: {answer}
Answer: {prediction}
Mark:"""


def mark(judge: Judge, prompt: str) -> float | None:
    """The judge's mark in 0..1, the first word of its reply; None if no reply is one.

    lmms-eval counts that as 0, and so does `score_mmvet`, which also says so. An empty reply is not asked for again.
    """
    for temperature in TEMPERATURES:
        words = judge(prompt, temperature).split()
        if not words:
            break
        with suppress(ValueError):
            if 0.0 <= float(words[0]) <= 1.0:
                return float(words[0])
    return None


def score_mmvet(doc: Doc, text: str, judge: Judge | None, judge_prompt: str = JUDGE_PROMPT) -> Scores:
    """The mark of an answer, or no score without a judge. ``doc``: ``question`` and ``answer``."""
    if judge is None:
        return {}
    slots = {"question": doc["question"], "answer": doc["answer"], "prediction": text}
    found = mark(judge, fill_slots(judge_prompt, slots))
    return {"mmvet/score": found or 0.0, PARSED: float(found is not None)}


@dataclass(kw_only=True, eq=False)
class MMVet(HubBenchmark):
    """``judge_url`` null: no judge. ``judge_prompt`` is a text file with the slots of `JUDGE_PROMPT`."""

    judge_url: str | None = None
    judge_model: str | None = None
    judge_key_variable: str | None = None
    judge_prompt: str | None = None

    task: ClassVar = "mmvet"
    columns: ClassVar = {
        "question_id": column.identifier, "question": column.text, "answer": column.text, "capability": column.text,
    }  # fmt: skip
    keys: ClassVar = ("question_id",)
    scored: ClassVar = ("question", "answer", "capability")

    def __post_init__(self) -> None:
        self.judge, self.judge_words, self.patience = None, JUDGE_PROMPT, Patience()
        if self.judge_url is not None:
            if not self.judge_model:
                raise BenchmarkError("dataset.judge_model is not set: name the model of dataset.judge_url")
            self.judge = OpenAIJudge(self.judge_url, self.judge_model, self.judge_key_variable)
        if self.judge_prompt is not None:
            self.judge_words = read_judge_prompt(self.judge_prompt)
        super().__post_init__()

    def score_document(self, doc: Doc, text: str) -> Scores:
        scores = score_mmvet(doc, text, self.judge, self.judge_words)
        self.patience.note(scores.get(PARSED, 1.0) > 0)
        return scores

    def units(self, rows: Sequence[Mapping]) -> list[Scores]:
        """The mark of every answer that has one, for all and for each capability that the question needs."""
        units = []
        for scores, doc in ((row["scores"], row["target"]) for row in rows if row["scores"]):
            needed = [f"mmvet/score/{name}" for name in CAPABILITIES if name in doc["capability"]]
            units.append(scores | dict.fromkeys(needed, scores["mmvet/score"]))
        return units

    def numbers(self, means: Scores) -> Scores:
        """The capabilities in MM-Vet's order."""
        names = ("mmvet/score", *(f"mmvet/score/{name}" for name in CAPABILITIES))
        return {name: means[name] for name in (*names, PARSED) if name in means}


def read_judge_prompt(path: str) -> str:
    """Read the judge's prompt from a file.

    Raises:
        BenchmarkError: it cannot be read or lacks a slot.
    """
    try:
        words = Path(path).expanduser().read_text(encoding="utf-8")
    except OSError as error:
        raise BenchmarkError(f"dataset.judge_prompt={path} cannot be read: {error.strerror}") from error
    for slot in ("{question}", "{answer}", "{prediction}"):
        if slot not in words:
            raise BenchmarkError(f"dataset.judge_prompt={path} lacks the slot {slot}")
    return words
