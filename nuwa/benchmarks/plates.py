"""Generated pictures of plates with numbers: what is read, and what needs no reading. Needs no data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from nuwa.benchmarks.base import Scores
from nuwa.benchmarks.generated import HELD_OUT, LARGEST, Generated, enlarged
from nuwa.benchmarks.scoring import exact_match
from nuwa.samples import Sample
from nuwa.scenes.plates import PLATE_KINDS, PLATES_SIZE, SCALES, PlateScene, ask_plates, draw_plates
from nuwa.scenes.questions import Question
from nuwa.schema import Positive

_PARTS = {"read": tuple(SCALES), "vqa": tuple(kind for kind in PLATE_KINDS if kind != "read")}
"""By task, what takes turns in it: sizes of the plate to be read, and kinds of questions that need no reading."""


def plates_and_question(seed: int, index: int, kind: str, size: str | None) -> tuple[PlateScene, Question]:
    """A held-out picture with a question of ``kind`` about it, about a plate of ``size`` if one is given."""
    rng = np.random.default_rng([seed, index, HELD_OUT])
    while True:
        scene = draw_plates(rng, unseen=True)
        question = ask_plates(scene, rng, kind)
        if size is None or scene.plates[question.targets[0]].size == size:
            return scene, question


@dataclass(eq=False)
class Plates(Generated):
    """``samples`` questions, each about a held-out picture of its own, whose numbers training never shows.

    The ``tasks`` take turns: ``read`` asks for the number on a small, a medium or a large plate, in turns, ``vqa`` for
    what needs no reading, its kinds in turns. Each size and kind has its score, too (``read/exact_match/small``).
    Sample i is a pure function of ``(seed, i)`` and ``tasks``. ``prompt`` wraps the question (slot ``{question}``) for
    models that expect more words than the tiny one; ``picture_side`` enlarges the pictures of 64 pixels.
    """

    samples: int
    tasks: tuple[str, ...] = tuple(_PARTS)
    seed: int = 0
    prompt: str = "{question}"
    max_tokens: Positive = 5
    picture_side: int = PLATES_SIZE
    name: str = "plates"

    known_tasks = tuple(_PARTS)
    kind = "plates"
    least: ClassVar = {**Generated.least, "picture_side": 1}
    most: ClassVar = {"picture_side": LARGEST}

    def draw(self, index: int) -> Sample:
        task, turn = self.task_of(index), index // len(self.tasks)
        part = _PARTS[task][turn % len(_PARTS[task])]
        kind, size = ("read", part) if task == "read" else (part, None)
        scene, question = plates_and_question(self.seed, index, kind, size)
        picture, text = enlarged(scene.image, self.picture_side), self.prompt.replace("{question}", question.text)
        meta = {"kind": kind, "part": part}
        return Sample(self.sample_id(index), task, (picture,), text, (question.answer,), meta)

    def score(self, sample: Sample, prediction: str) -> Scores:
        metric, right = f"{sample.task}/exact_match", exact_match(sample.target, prediction)
        return {metric: right, f"{metric}/{sample.meta['part']}": right}

    def numbers(self, means: Scores) -> Scores:
        """Every task with its parts behind it, in their order."""
        names = [f"{task}/exact_match{part}" for task in _PARTS for part in ("", *(f"/{one}" for one in _PARTS[task]))]
        return {name: means[name] for name in names if name in means}

    def max_new_tokens(self, task: str) -> int:
        return self.max_tokens
