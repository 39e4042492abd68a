"""MMStar: questions that cannot be answered without their picture. Source: lmms-eval v0.7.3, task ``mmstar``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from nuwa.benchmarks import column_checks as column
from nuwa.benchmarks.answers import letter_accuracy, ranked_letter
from nuwa.benchmarks.base import Doc, Scores
from nuwa.benchmarks.hub import HubBenchmark


class MMStar(HubBenchmark):
    """Questions hold their options; six categories have three subcategories each, all of equal weight."""

    task: ClassVar = "mmstar"
    columns: ClassVar = {
        "index": column.integer, "question": column.text, "answer": column.letter, "category": column.text,
        "l2_category": column.text,
    }  # fmt: skip
    keys: ClassVar = ("index",)
    scored: ClassVar = ("answer", "category", "l2_category")

    def fill(self, doc: Doc) -> Mapping[str, str]:
        return {"question": doc["question"].strip()}

    def score_document(self, doc: Doc, text: str) -> Scores:
        """Whether the letter that the answer means is ``doc["answer"]``, and whether it holds a letter."""
        return {
            "mmstar/accuracy": letter_accuracy((doc["answer"],), text),
            "mmstar/parsed": float(ranked_letter(text) is not None),
        }

    def units(self, rows: Sequence[Mapping]) -> list[Scores]:
        """The score of each row under its subcategory, and whether it could be read."""
        return [
            {f"mmstar/{row['target']['category']}/{row['target']['l2_category']}": row["scores"]["mmstar/accuracy"]}
            | {"mmstar/parsed": row["scores"]["mmstar/parsed"]}
            for row in rows
        ]

    def numbers(self, means: Scores) -> Scores:
        """The mean over all subcategories; of each category, the mean over its own; then the subcategories."""
        parts = {name: means[name] for name in sorted(means) if name != "mmstar/parsed"}
        categories: dict[str, list[float]] = {}
        for name, value in parts.items():
            categories.setdefault(name.rpartition("/")[0], []).append(value)
        return {
            "mmstar/average": sum(parts.values()) / len(parts),
            **{name: sum(values) / len(values) for name, values in categories.items()},
            **parts,
            "mmstar/parsed": means["mmstar/parsed"],
        }
