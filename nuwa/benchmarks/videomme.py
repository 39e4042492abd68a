"""VideoMME: questions with four options about short, medium and long videos, without subtitles.

Source: lmms-eval v0.3.4 (a863517), task ``videomme``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from nuwa.benchmarks import column_checks as column
from nuwa.benchmarks.base import Doc, Scores, headline_first
from nuwa.benchmarks.filmed import VideoBenchmark
from nuwa.benchmarks.scoring import first_capital

_LEADS = ("The best answer is", "The correct answer is", "The answer is", "The answer")
"""The reference means to delete four more, but two commas are missing: "Best option: C" is read as B."""


@dataclass(kw_only=True, eq=False)
class VideoMME(VideoBenchmark):
    """Three questions to a video. The prompt speaks of subtitles, as the reference's does without them."""

    task: ClassVar = "videomme"
    columns: ClassVar = {
        "question_id": column.identifier, "videoID": column.text, "duration": column.text, "question": column.text,
        "options": column.texts, "answer": column.letter,
    }  # fmt: skip
    keys: ClassVar = ("question_id",)
    subject: ClassVar = "videoID"
    inside: ClassVar = ("data", "")
    slots: ClassVar = ("question", "options")
    scored: ClassVar = ("duration", "answer")

    def video_name(self, doc: Doc) -> str:
        return f"{doc['videoID']}.mp4"

    def fill(self, doc: Doc) -> Mapping[str, str]:
        return {"question": doc["question"], "options": "\n".join(doc["options"])}

    def score_document(self, doc: Doc, text: str) -> Scores:
        """Whether the first of the letters A to D is right, also by duration, and whether there is one."""
        said, whole = first_capital(text, "ABCD", _LEADS), "videomme/accuracy"
        right = float(said == doc["answer"])
        return {whole: right, f"{whole}/{doc['duration']}": right, "videomme/parsed": float(said is not None)}

    def numbers(self, means: Scores) -> Scores:
        return headline_first(means)
