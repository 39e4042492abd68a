"""POPE: is this object in the picture? Yes or no, half of each. Source: lmms-eval v0.3.4 (a863517), task ``pope``."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from nuwa.benchmarks.base import Scores
from nuwa.benchmarks.hub import Doc, Entry, HubBenchmark, a_text, identifier
from nuwa.benchmarks.scoring import exact_match, normalise_answer


def score(doc: Doc, text: str) -> Scores:
    """Exactly ``doc["answer"]`` but for case and white space: "Yes." is wrong."""
    return {"pope/accuracy": exact_match((doc["answer"],), text, ignore_punctuation=False)}


def aggregate(pairs: Iterable[tuple[Doc, str]], yes_ratio_of: str = "truth") -> Scores:
    """The numbers of `from_counts` for answers and the documents that they answer."""
    return from_counts(Counter((doc["answer"], text) for doc, text in pairs), yes_ratio_of)


def from_counts(counts: Mapping[tuple[str, str], int], yes_ratio_of: str = "truth") -> Scores:
    """F1 of "yes", precision and recall, over answers that are exactly yes or no; accuracy is over all.

    ``counts``: how often (truth, answer) came. ``yes_ratio_of="truth"`` is the reference's ratio, which says nothing
    about the model.
    """
    answers: Counter[tuple[str, str]] = Counter()
    for (truth, said), count in counts.items():
        answers[normalise_answer(truth, False), normalise_answer(said, False)] += count
    right, total = answers["yes", "yes"], answers.total()
    precision = _share(right, right + answers["no", "yes"])
    recall = _share(right, right + answers["yes", "no"])
    column = 0 if yes_ratio_of == "truth" else 1
    return {
        "pope/f1_score": _share(2 * precision * recall, precision + recall),
        "pope/accuracy": _share(sum(count for (truth, said), count in answers.items() if truth == said), total),
        "pope/precision": precision,
        "pope/recall": recall,
        "pope/yes_ratio": _share(sum(count for pair, count in answers.items() if pair[column] == "yes"), total),
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
    subject: ClassVar = "image_source"
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
        counts: dict[str, Counter] = defaultdict(Counter)
        for row in rows:
            target = row["target"]
            counts[target["category"]][target["answer"], row["prediction"]] += 1
        numbers = from_counts(sum(counts.values(), Counter()), self.yes_ratio_of)
        return numbers | {
            f"pope/f1_score/{category}": from_counts(counts[category])["pope/f1_score"] for category in sorted(counts)
        }
