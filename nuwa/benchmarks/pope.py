"""POPE: is this object in the picture? Yes or no, half of each. Source: lmms-eval v0.3.4 (a863517), task ``pope``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from nuwa.benchmarks import column_checks as column
from nuwa.benchmarks.base import Doc, Scores
from nuwa.benchmarks.hub import Entry, HubBenchmark
from nuwa.benchmarks.scoring import exact_match, normalise_answer

_WORDS = ("yes", "no")


def precision_recall_f1(means: Scores, prefix: str = "") -> tuple[float, float, float]:
    """Precision, recall and F1 of "yes" from means of `POPE.units`; their names begin with ``prefix``."""
    both, said, true = (means[f"{prefix}{name}"] for name in ("both", "only said", "only true"))
    precision, recall = _share(both, both + said), _share(both, both + true)
    return precision, recall, _share(2 * precision * recall, precision + recall)


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


@dataclass(kw_only=True, eq=False)
class POPE(HubBenchmark):
    """Three thousand questions for each of random, popular and adversarial objects; ``category`` null takes all.

    ``yes_ratio_of="truth"`` is the reference's ratio, which says nothing about the model.
    """

    category: str | None = None
    yes_ratio_of: Literal["truth", "prediction"] = "truth"

    task: ClassVar = "pope"
    columns: ClassVar = {
        "question_id": column.identifier, "question": column.text, "answer": column.text, "category": column.text,
    }  # fmt: skip
    keys: ClassVar = ("question_id", "category")
    subject: ClassVar = "image_source"
    scored: ClassVar = ("answer", "category")

    def entries(self, row: int, keys: Doc) -> Iterator[Entry]:
        """Question ids count within a category."""
        if self.category in (None, keys["category"]):
            yield f"{column.text(keys['category'])}-{column.identifier(keys['question_id'])}", None

    def fill(self, doc: Doc) -> Mapping[str, str]:
        return {"question": doc["question"].strip()}

    def score_document(self, doc: Doc, text: str) -> Scores:
        """Equal to ``doc["answer"]`` except for case and white space at the ends: "Yes." is wrong, and not parsed."""
        right = exact_match((doc["answer"],), text, ignore_punctuation=False)
        return {"pope/accuracy": right, "pope/parsed": float(normalise_answer(text, False) in _WORDS)}

    def units(self, rows: Sequence[Mapping]) -> list[Scores]:
        """How each answer counts, among all answers and in its category; but only if it is exactly yes or no.

        F1, precision and recall leave the others out, so the share that could be read stands beside them.
        """
        kinds = {"both": ("yes", "yes"), "only said": ("no", "yes"), "only true": ("yes", "no")}
        units = []
        for row in rows:
            category = row["target"]["category"]
            truth, said = (normalise_answer(text, False) for text in (row["target"]["answer"], row["prediction"]))
            own = {name: float((truth, said) == kind) for name, kind in kinds.items()}
            yes = (truth if self.yes_ratio_of == "truth" else said) == "yes"
            units.append(
                own
                | {f"{category}/{name}": value for name, value in own.items()}
                | {"right": row["scores"]["pope/accuracy"], "yes": float(yes), "parsed": float(said in _WORDS)}
            )
        return units

    def numbers(self, means: Scores) -> Scores:
        """All categories together, and the F1 of each."""
        precision, recall, f1 = precision_recall_f1(means)
        categories = sorted(name.removesuffix("/both") for name in means if name.endswith("/both"))
        return {
            "pope/f1_score": f1,
            "pope/accuracy": means["right"],
            "pope/precision": precision,
            "pope/recall": recall,
            "pope/yes_ratio": means["yes"],
            "pope/parsed": means["parsed"],
            **{f"pope/f1_score/{name}": precision_recall_f1(means, f"{name}/")[2] for name in categories},
        }
