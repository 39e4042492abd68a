"""POPE: is this object in the picture? Yes or no, half of each. Source: lmms-eval v0.3.4 (a863517), task ``pope``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from nuwa.benchmarks.base import Scores
from nuwa.benchmarks.hub import Doc, Entry, HubBenchmark, a_text, identifier
from nuwa.benchmarks.scoring import exact_match, normalise_answer


def score(doc: Doc, text: str) -> Scores:
    """Exactly ``doc["answer"]`` but for case and white space: "Yes." is wrong."""
    return {"pope/accuracy": exact_match((doc["answer"],), text, ignore_punctuation=False)}


def aggregate(pairs: Sequence[tuple[Doc, str]], yes_ratio_of: str = "truth") -> Scores:
    """F1 of "yes", precision and recall, over answers that are exactly yes or no; accuracy is over all.

    ``yes_ratio_of="truth"`` is the reference's ratio, which says nothing about the model.
    """
    answers = [(normalise_answer(doc["answer"], False), normalise_answer(text, False)) for doc, text in pairs]
    right = answers.count(("yes", "yes"))
    precision = _share(right, right + answers.count(("no", "yes")))
    recall = _share(right, right + answers.count(("yes", "no")))
    column = 0 if yes_ratio_of == "truth" else 1
    return {
        "pope/f1_score": _share(2 * precision * recall, precision + recall),
        "pope/accuracy": _share(sum(truth == said for truth, said in answers), len(answers)),
        "pope/precision": precision,
        "pope/recall": recall,
        "pope/yes_ratio": _share(sum(pair[column] == "yes" for pair in answers), len(answers)),
    }


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


@dataclass(kw_only=True, eq=False)
class POPE(HubBenchmark):
    """Three thousand questions for each of random, popular and adversarial objects; ``category`` null takes all."""

    category: str | None = None
    yes_ratio_of: Literal["truth", "prediction"] = "truth"

    task: ClassVar = "pope"
    columns: ClassVar = {"question_id": identifier, "question": a_text, "answer": a_text, "category": a_text}
    keys: ClassVar = ("question_id", "category")
    scored: ClassVar = ("answer", "category")

    def entries(self, row: int, keys: Doc) -> Iterator[Entry]:
        """Question ids count within a category."""
        if self.category in (None, keys["category"]):
            yield f"{a_text(keys['category'])}-{identifier(keys['question_id'])}", None

    def fill(self, doc: Doc) -> Mapping[str, str]:
        return {"question": doc["question"].strip()}

    def score_document(self, doc: Doc, text: str) -> Scores:
        return score(doc, text)

    def metrics(self, rows: Sequence[Mapping]) -> Scores:
        """All categories together, and the F1 of each."""
        pairs = [(row["target"], row["prediction"]) for row in rows]
        numbers = aggregate(pairs, self.yes_ratio_of)
        for category in sorted({doc["category"] for doc, _ in pairs}):
            own = aggregate([pair for pair in pairs if pair[0]["category"] == category])
            numbers[f"pope/f1_score/{category}"] = own["pope/f1_score"]
        return numbers
