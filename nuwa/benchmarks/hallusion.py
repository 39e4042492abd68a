"""HallusionBench's questions with a picture, without a judge: the first yes or no of an answer counts.

lmms-eval v0.7.3 (task ``hallusion_bench_image``) lets GPT compare each answer with a reference. The numbers here are
named judge-free, so that nobody takes them for those; how they are summed up is the same.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from nuwa.benchmarks import column_checks as column
from nuwa.benchmarks.base import Doc, Scores
from nuwa.benchmarks.hub import Entry, HubBenchmark
from nuwa.samples import SampleError

_YES_NO = re.compile(r"\b(yes|no)\b", re.IGNORECASE)
_SETS = ("category", "subcategory", "set_id")
_PLACES = (*_SETS, "figure_id", "question_id")


def first_yes_no(text: str) -> str | None:
    """The first "yes" or "no" that is a word of its own, in lower case; None if there is none.

    >>> first_yes_no("No, yes is wrong"), first_yes_no("Nobody knows"), first_yes_no("I say YES.")
    ('no', None, 'yes')
    """
    found = _YES_NO.search(text)
    return found[1].lower() if found else None


def yes_or_no(value: object) -> str:
    """The data's 1 and 0 as words."""
    if value not in ("0", "1"):
        raise ValueError("must be '0' or '1'")
    return "yes" if value == "1" else "no"


class HallusionBench(HubBenchmark):
    """A set has several figures, some of them doctored, and the same questions about each."""

    task: ClassVar = "hallusion_judge_free"
    columns: ClassVar = {
        "question": column.text, "gt_answer": yes_or_no, **dict.fromkeys(_PLACES, column.identifier),
    }  # fmt: skip
    keys: ClassVar = _PLACES
    scored: ClassVar = ("gt_answer", *_PLACES)
    grouped: ClassVar = True

    def entries(self, row: int, keys: Doc) -> Iterator[Entry]:
        """Named after set, figure and question; a whole set is scored together."""
        places = [column.identifier(keys[place]) for place in _PLACES]
        yield "-".join(places), "-".join(places[: len(_SETS)])

    def document(self, doc: Doc, part: int, sizes: Sequence[tuple[int, int]]) -> Doc:
        """Questions without a picture are counted by rules of their own, and refused here."""
        if not sizes:
            raise SampleError("the row has no picture; the split image has those that do")
        return doc

    def score_document(self, doc: Doc, text: str) -> Scores:
        """Whether the first yes or no is ``doc["gt_answer"]``, and whether there is one."""
        said = first_yes_no(text)
        return {f"{self.task}/aAcc": float(said == doc["gt_answer"]), f"{self.task}/parsed": float(said is not None)}

    def units(self, rows: Sequence[Mapping]) -> list[Scores]:
        """Of each answer whether it is right; of each figure and of each question of a set, whether all answers are."""
        figures: dict[tuple, list[float]] = defaultdict(list)
        questions: dict[tuple, list[float]] = defaultdict(list)
        for row in rows:
            doc, right = row["target"], row["scores"][f"{self.task}/aAcc"]
            whole = tuple(doc[place] for place in _SETS)
            figures[*whole, doc["figure_id"]].append(right)
            questions[*whole, doc["question_id"]].append(right)
        all_right = [{f"{self.task}/fAcc": min(answers)} for answers in figures.values()]
        all_right += [{f"{self.task}/qAcc": min(answers)} for answers in questions.values()]
        return [row["scores"] for row in rows] + all_right

    def numbers(self, means: Scores) -> Scores:
        """By answer (aAcc), by figure (fAcc) and by question (qAcc)."""
        return {name: means[name] for name in (f"{self.task}/{one}" for one in ("aAcc", "fAcc", "qAcc", "parsed"))}
