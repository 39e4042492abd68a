"""LongVideoBench: up to five options about videos of up to an hour, without subtitles.

Source: lmms-eval v0.3.4 (a863517), task ``longvideobench_val_v``. An answer without a letter is wrong here; the
reference draws one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import ClassVar

from nuwa.benchmarks import column_checks as column
from nuwa.benchmarks.base import Doc, Scores, headline_first
from nuwa.benchmarks.filmed import VideoBenchmark
from nuwa.benchmarks.hub import LETTERS, option_lines
from nuwa.benchmarks.rows import Rows
from nuwa.benchmarks.scoring import first_capital
from nuwa.benchmarks.sources import load_rows
from nuwa.samples import SampleError

_OPTIONS = tuple(f"option{number}" for number in range(5))
_ABSENT = "N/A"
_FILE = "lvb_val.json"
_LEADS = (
    "The best answer is", "The correct answer is", "The answer is", "The answer", "The best option is",
    "The correct option is", "Best answer:", "Best option:",
)  # fmt: skip


@dataclass(kw_only=True, eq=False)
class LongVideoBench(VideoBenchmark):
    """A local copy may be the authors' folder, with ``lvb_val.json`` and ``videos``."""

    task: ClassVar = "longvideobench"
    columns: ClassVar = {
        "id": column.identifier, "video_path": column.text, "question": column.text,
        **dict.fromkeys(_OPTIONS, column.string), "correct_choice": column.integer,
        "duration_group": column.integer, "question_category": column.text,
    }  # fmt: skip
    keys: ClassVar = ("id",)
    subject: ClassVar = "video_path"
    slots: ClassVar = ("question", "options")
    scored: ClassVar = (*_OPTIONS, "correct_choice", "duration_group", "question_category")

    def load(self) -> Rows:
        authors = Path(self.path or "").expanduser() / _FILE
        if self.path and authors.is_file():
            return load_rows([], None, self.split, path=str(authors))
        return super().load()

    def video_name(self, doc: Doc) -> str:
        return doc["video_path"]

    def document(self, doc: Doc, part: int, sizes: Sequence[tuple[int, int]]) -> Doc:
        """The right answer must be one of the options."""
        if doc["correct_choice"] not in range(len(_there(doc))):
            raise SampleError(f"correct_choice {doc['correct_choice']} is none of {len(_there(doc))} options")
        return doc

    def fill(self, doc: Doc) -> Mapping[str, str]:
        options = [doc[option] for option in _OPTIONS if doc[option] != _ABSENT]
        return {"question": doc["question"], "options": option_lines(options)}

    def score_document(self, doc: Doc, text: str) -> Scores:
        """Whether the first of the letters A to E is right, and whether there is one.

        As a whole, for the video's group of durations (up to so many seconds), and for the question's category.
        """
        said, whole = first_capital(text, LETTERS[: len(_OPTIONS)], _LEADS), "longvideobench/accuracy"
        right = float(said == LETTERS[doc["correct_choice"]])
        parts = (f"{whole}/duration/{doc['duration_group']}", f"{whole}/category/{doc['question_category']}")
        return {whole: right, **dict.fromkeys(parts, right), "longvideobench/parsed": float(said is not None)}

    def numbers(self, means: Scores) -> Scores:
        return headline_first(means)


def _there(doc: Doc) -> list[str]:
    """The options before the first that is absent."""
    return list(takewhile(lambda option: option != _ABSENT, (doc[name] for name in _OPTIONS)))
