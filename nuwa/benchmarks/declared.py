"""A benchmark that is declared by its YAML alone: which columns hold picture, question and answer, and which metric."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nuwa.benchmarks import answers
from nuwa.benchmarks import column_checks as column
from nuwa.benchmarks.base import BenchmarkError, Doc, Scores, headline_first
from nuwa.benchmarks.hub import HubBenchmark, slots_of
from nuwa.benchmarks.scoring import exact_match

METRICS: dict[str, Callable[[Sequence[str], str], float]] = {
    "exact_match": exact_match,
    "letter": answers.letter_accuracy,
    "anls": answers.anls,
    "relaxed_accuracy": answers.relaxed_accuracy,
}
"""What an answer is worth, 0 to 1, given the accepted ones."""


@dataclass(kw_only=True, eq=False)
class Declared(HubBenchmark):
    """One question, one answer for each row. The prompt's slots are columns; ``name`` leads the metrics' names.

    Args:
        metric: one of `METRICS`; ``letter`` also says how many answers hold a letter.
        answer: the column of the accepted answer, or of a list of them.
        image: the column of the picture, or of a list of them.
        id: the column of ids; None: the rows' numbers.
        by: a column of few values, for each of which the metric is given by itself.
        same_picture: a column whose equal values mean equal pictures; those rows are computed together.

    Raises:
        BenchmarkError: the metric is unknown, the name is no word, or the prompt gives the answer away; and as
            `HubBenchmark`.
    """

    metric: str
    answer: str = "answer"
    image: str = "image"
    id: str | None = None
    by: str | None = None
    same_picture: str | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[^/\s]+", self.name):
            raise BenchmarkError(f"dataset.name={self.name!r} leads the metrics' names: give a word without a slash")
        if self.metric not in METRICS:
            raise BenchmarkError(f"dataset.metric={self.metric} is unknown; choose one of {', '.join(METRICS)}")
        asked = slots_of(self.prompt)
        if not asked:
            raise BenchmarkError(f"dataset.prompt={self.prompt!r} names no column: give a slot, e.g. {{question}}")
        if self.answer in asked:
            raise BenchmarkError(f"dataset.prompt={self.prompt!r} gives the column {self.answer} away, the answer")
        parts = (self.by,) if self.by else ()
        vars(self).update(
            task=self.name,
            columns={self.answer: column.accepted} | dict.fromkeys((*asked, *parts), column.text),
            keys=(self.id,) if self.id else (),
            subject=self.same_picture,
            pictures=(self.image,),
            slots=asked,
            scored=(self.answer, *parts),
        )
        super().__post_init__()

    def score_document(self, doc: Doc, text: str) -> Scores:
        accepted, headline = doc[self.answer], f"{self.name}/{self.metric}"
        value = METRICS[self.metric](accepted, text)
        scores = {headline: value} | ({f"{headline}/{doc[self.by]}": value} if self.by else {})
        if self.metric == "letter" and any(map(answers.is_letter, accepted)):
            scores[f"{self.name}/parsed"] = float(answers.ranked_letter(text) is not None)
        return scores

    def numbers(self, means: Scores) -> Scores:
        return headline_first(means)
