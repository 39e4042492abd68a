"""MME: two yes-no questions to every picture, in points. Source: lmms-eval v0.3.4 (a863517), task ``mme``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from nuwa.benchmarks.base import Scores
from nuwa.benchmarks.hub import Doc, Entry, HubBenchmark, a_text, identifier

PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
)  # fmt: skip
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
ENDING = " Please answer yes or no."
START = 4  # characters in which a longer answer must hold its yes or no


def parse(text: str) -> str:
    """``yes``, ``no`` or ``other``: the whole answer or its letter; else "yes", then "no", in the first characters."""
    said = text.strip().lower().replace(".", "")
    if said in ("yes", "y"):
        return "yes"
    if said in ("no", "n"):
        return "no"
    return next((word for word in ("yes", "no") if word in said[:START]), "other")


def score(doc: Doc, text: str) -> Scores:
    """Whether one question is right."""
    return {"mme/accuracy": float(parse(text) == doc["answer"].strip().lower())}


def aggregate(pairs: Sequence[tuple[Doc, str]]) -> Scores:
    """Points: for a category the mean over pictures of 100 for the share that is right and 100 if both are.

    Perception is the sum of ten categories (at most 2000), cognition of four (800). A picture counts only if all its
    questions were answered.
    """
    right: dict[tuple[str, str], list[float]] = defaultdict(list)
    for doc, text in pairs:
        right[doc["category"], doc["question_id"]].append(score(doc, text)["mme/accuracy"])
    points: dict[str, list[float]] = defaultdict(list)
    for (category, _), answers in right.items():
        if len(answers) % 2 == 0:
            value = 100 * sum(answers) / len(answers) + 100 * all(answers)
            points[category] += [value] * (len(answers) // 2)  # a picture that a bootstrap drew twice counts twice
    means = {category: sum(values) / len(values) for category, values in points.items()}
    perception = sum(means.get(category, 0.0) for category in PERCEPTION)
    cognition = sum(means.get(category, 0.0) for category in COGNITION)
    return {
        "mme/total_score": perception + cognition,
        "mme/perception_score": perception,
        "mme/cognition_score": cognition,
        **{f"mme/{category}": means[category] for category in sorted(means)},
    }


@dataclass(kw_only=True, eq=False)
class MME(HubBenchmark):
    """``limit`` takes pictures with both of their questions."""

    task: ClassVar = "mme"
    columns: ClassVar = {"question_id": identifier, "question": a_text, "answer": a_text, "category": a_text}
    keys: ClassVar = ("question_id", "category")
    scored: ClassVar = ("question_id", "answer", "category")
    grouped: ClassVar = True

    def entries(self, row: int, keys: Doc) -> Iterator[Entry]:
        """``question_id`` names the picture, mostly with its category, so the row tells its questions apart."""
        category, name = a_text(keys["category"]), identifier(keys["question_id"])
        name = name if name.startswith(category) else f"{category}/{name}"
        yield f"{name}-{row}", name

    def fill(self, doc: Doc) -> Mapping[str, str]:
        """The question's own request for yes or no is replaced by the prompt's."""
        return {"question": doc["question"].replace(ENDING, "").strip()}

    def score_document(self, doc: Doc, text: str) -> Scores:
        return score(doc, text)

    def metrics(self, rows: Sequence[Mapping]) -> Scores:
        return aggregate([(row["target"], row["prediction"]) for row in rows])
