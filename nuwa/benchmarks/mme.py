"""MME: two yes-no questions to every picture, in points. Source: lmms-eval v0.3.4 (a863517), task ``mme``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from nuwa.benchmarks import column_checks as column
from nuwa.benchmarks.base import Doc, Scores
from nuwa.benchmarks.hub import Entry, HubBenchmark

PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
)  # fmt: skip
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
_REQUEST = " Please answer yes or no."
_START = 4  # characters in which a longer answer must hold its yes or no


def parse_yes_no(text: str) -> str:
    """``yes``, ``no`` or ``other``: "y" or "n" alone, else "yes", then "no", among the first characters.

    >>> parse_yes_no("Y."), parse_yes_no("No, it is not"), parse_yes_no("It is not")
    ('yes', 'no', 'other')
    """
    said = text.strip().lower().replace(".", "")
    return next((word for word in ("yes", "no") if said == word[0] or word in said[:_START]), "other")


class MME(HubBenchmark):
    """``limit`` takes pictures with both of their questions."""

    task: ClassVar = "mme"
    columns: ClassVar = {
        "question_id": column.identifier, "question": column.text, "answer": column.text, "category": column.text,
    }  # fmt: skip
    keys: ClassVar = ("question_id", "category")
    scored: ClassVar = ("question_id", "answer", "category")
    grouped: ClassVar = True

    def entries(self, row: int, keys: Doc) -> Iterator[Entry]:
        """``question_id`` names the picture, mostly with its category, so the row tells its questions apart."""
        category, name = column.text(keys["category"]), column.identifier(keys["question_id"])
        name = name if name.startswith(category) else f"{category}/{name}"
        yield f"{name}-{row}", name

    def fill(self, doc: Doc) -> Mapping[str, str]:
        """The question's own request for yes or no is replaced by the prompt's."""
        return {"question": doc["question"].replace(_REQUEST, "").strip()}

    def score_document(self, doc: Doc, text: str) -> Scores:
        """Whether one question is right, and whether a yes or no could be read."""
        said = parse_yes_no(text)
        return {"mme/accuracy": float(said == doc["answer"].strip().lower()), "mme/parsed": float(said != "other")}

    def units(self, rows: Sequence[Mapping]) -> list[Scores]:
        """Points of every picture with all its questions: 100 times the share of right answers, 100 more if all are.

        Beside them, whether each answer could be read.
        """
        right: dict[tuple[str, str], list[float]] = defaultdict(list)
        units = []
        for row in rows:
            doc, scores = row["target"], self.score_document(row["target"], row["prediction"])
            right[doc["category"], doc["question_id"]].append(scores["mme/accuracy"])
            units.append({"mme/parsed": scores["mme/parsed"]})
        points = [
            {f"mme/{category}": 100 * sum(answers) / len(answers) + 100 * all(answers)}
            for (category, _), answers in right.items()
            if len(answers) % 2 == 0
        ]
        return points + units

    def numbers(self, means: Scores) -> Scores:
        """Perception is the sum of ten categories (at most 2000), cognition of four (800)."""
        perception = sum(means.get(f"mme/{category}", 0.0) for category in PERCEPTION)
        cognition = sum(means.get(f"mme/{category}", 0.0) for category in COGNITION)
        return {
            "mme/total_score": perception + cognition,
            "mme/perception_score": perception,
            "mme/cognition_score": cognition,
            **{name: means[name] for name in sorted(means)},
        }
