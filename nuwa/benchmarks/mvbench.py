"""MVBench: twenty tasks of two to five options about short videos; the printed number is the mean of the tasks.

Source: lmms-eval v0.3.4 (a863517), tasks ``mvbench_*``, on the data set's revision ``video``, whose videos are cut to
what is asked about.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import ClassVar

from nuwa.benchmarks import column_checks as column
from nuwa.benchmarks.base import BenchmarkError, Doc, Scores, headline_first
from nuwa.benchmarks.evalai import on_one_line, without_punctuation
from nuwa.benchmarks.filmed import VideoBenchmark
from nuwa.benchmarks.hub import Entry, option_letters
from nuwa.benchmarks.rows import JoinedRows, Rows
from nuwa.benchmarks.sources import load_rows
from nuwa.samples import SampleError

FOLDERS = {
    "action_antonym": "ssv2_video_mp4", "action_count": "perception/videos",
    "action_localization": "sta/sta_video_segment", "action_prediction": "star/Charades_segment",
    "action_sequence": "star/Charades_segment", "character_order": "perception/videos",
    "counterfactual_inference": "clevrer/video_validation", "egocentric_navigation": "vlnqa",
    "episodic_reasoning": "tvqa/video_fps3_hq_segment", "fine_grained_action": "Moments_in_Time_Raw/videos",
    "fine_grained_pose": "nturgbd_convert", "moving_attribute": "clevrer/video_validation",
    "moving_count": "clevrer/video_validation", "moving_direction": "clevrer/video_validation",
    "object_existence": "clevrer/video_validation", "object_interaction": "star/Charades_segment",
    "object_shuffle": "perception/videos", "scene_transition": "scene_qa/video", "state_change": "perception/videos",
    "unexpected_action": "FunQA_test/test",
}  # fmt: skip
"""Where the videos of each task lie; episodic_reasoning's are folders of frames."""
FOLDER_RATE = 3.0
"""Frames a second in these folders."""
_LED = re.compile(r"([A-E])\.\s*.+", re.IGNORECASE)
_LONE = re.compile(r"\b[a-e]\b")


def lone_letter(text: str) -> str | None:
    """The letter with which an answer begins (``A. ...``), or the first that stands alone, in any case.

    >>> lone_letter("(b)"), lone_letter("It is a dog"), lone_letter("blue dog")
    ('B', 'A', None)
    """
    led = _LED.fullmatch(text.strip())
    found = _LONE.search(without_punctuation(on_one_line(text)).lower())
    return led[1].upper() if led else found[0].upper() if found else None


@dataclass(kw_only=True, eq=False)
class MVBench(VideoBenchmark):
    """``tasks``: those that are asked, None: all. They take turns, so that ``limit`` takes of each."""

    tasks: list[str] | None = None

    task: ClassVar = "mvbench"
    columns: ClassVar = {
        "part": column.text, "place": column.integer, "video": column.text, "question": column.text,
        "candidates": column.texts, "answer": column.string,
    }  # fmt: skip
    keys: ClassVar = ("part", "place")
    subject: ClassVar = "video"
    inside: ClassVar = ("", "data0613")
    slots: ClassVar = ("question", "options")
    scored: ClassVar = ("part", "candidates", "answer")

    def load(self) -> Rows:
        tasks = list(FOLDERS) if self.tasks is None else self.tasks
        unknown = [task for task in tasks if task not in FOLDERS]
        if unknown or not tasks:
            raise BenchmarkError(f"dataset.tasks={self.tasks}: must be some of {', '.join(FOLDERS)}")
        return JoinedRows({task: self._rows_of_task(task) for task in tasks})

    def _rows_of_task(self, task: str) -> Rows:
        if self.path is None:
            return self.rows_of(task)
        file = Path(self.path).expanduser() / "json" / f"{task}.json"
        if not file.is_file():
            raise BenchmarkError(f"dataset.path={self.path} lacks json/{task}.json; dataset.tasks takes some of them")
        return load_rows([], None, self.split, path=str(file))

    def entries(self, row: int, keys: Doc) -> Iterator[Entry]:
        yield f"{keys['part']}-{keys['place']}", None

    def video_name(self, doc: Doc) -> str:
        return f"{FOLDERS[doc['part']]}/{doc['video']}"

    def rate(self, doc: Doc) -> float | None:
        return FOLDER_RATE

    def document(self, doc: Doc, part: int, sizes: Sequence[tuple[int, int]]) -> Doc:
        """The answer must be one of the candidates."""
        if doc["answer"] not in doc["candidates"]:
            raise SampleError(f"answer {doc['answer']!r} is none of the candidates")
        return doc

    def fill(self, doc: Doc) -> Mapping[str, str]:
        lettered = zip(option_letters(doc["candidates"]), doc["candidates"], strict=True)
        return {
            "question": doc["question"],
            "options": "\n".join(f"({letter}) {option}" for letter, option in lettered),
        }

    def score_document(self, doc: Doc, text: str) -> Scores:
        """Whether the letter is that of the answer, and whether there is one."""
        said = lone_letter(text)
        letter = option_letters(doc["candidates"])[doc["candidates"].index(doc["answer"])]
        return {"mvbench/accuracy": float(said == letter), "mvbench/parsed": float(said is not None)}

    def units(self, rows: Sequence[Mapping]) -> list[Scores]:
        """Of every row, under its task, whether it is right and whether it has an answer; and whether that was read."""
        units = []
        for row in rows:
            task, scores = row["target"]["part"], row["scores"]
            marks = {f"right/{task}": scores["mvbench/accuracy"], f"answered/{task}": float(row["prediction"] != "")}
            units.append(marks | {"mvbench/parsed": scores["mvbench/parsed"]})
        return units

    def numbers(self, means: Scores) -> Scores:
        """Accuracy of each task, empty answers left out as in the reference, and first the mean of the tasks."""
        right = {name.removeprefix("right/"): mean for name, mean in means.items() if name.startswith("right/")}
        answered = {task: means[f"answered/{task}"] for task in right}
        tasks = {task: mean / answered[task] if answered[task] else 0.0 for task, mean in right.items()}
        parts = {f"mvbench/accuracy/{task}": accuracy for task, accuracy in tasks.items()}
        return headline_first(
            {"mvbench/accuracy": fmean(tasks.values()), **parts, "mvbench/parsed": means["mvbench/parsed"]}
        )
