"""Generated pictures of plates with numbers: what is read, and what needs no reading. Needs no data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from nuwa.benchmarks.base import Benchmark, BenchmarkError, Scores, require_slot
from nuwa.benchmarks.scenes import HELD_OUT, LARGEST
from nuwa.benchmarks.scoring import exact_match
from nuwa.samples import Sample
from nuwa.scenes.plates import PLATE_KINDS, PLATES_SIZE, SCALES, PlateScene, ask_plates, draw_plates
from nuwa.scenes.questions import Question
from nuwa.schema import Positive

_SIZES = {f"read_{size}": size for size in SCALES}
"""Tasks that need reading, and the size of the plate asked about."""
_TASKS = (*_SIZES, "vqa")
_WITHOUT_READING = tuple(kind for kind in PLATE_KINDS if kind != "read")


def plates_and_question(seed: int, index: int, kind: str, size: str | None) -> tuple[PlateScene, Question]:
    """A held-out picture with a question of ``kind`` about it, about a plate of ``size`` if one is given."""
    rng = np.random.default_rng([seed, index, HELD_OUT])
    while True:
        scene = draw_plates(rng, unseen=True)
        question = ask_plates(scene, rng, kind)
        if size is None or scene.plates[question.targets[0]].size == size:
            return scene, question


@dataclass(eq=False)
class Plates(Benchmark):
    """``samples`` questions, each about a held-out picture of its own, whose numbers training never shows.

    The ``tasks`` take turns: ``read_small``, ``read_medium`` and ``read_large`` ask for the number on a plate of that
    size, ``vqa`` for what needs no reading, its kinds in turns. Sample i is a pure function of ``(seed, i)`` and
    ``tasks``. ``prompt`` wraps the question (slot ``{question}``) for models that expect more words than the tiny one;
    ``picture_side`` enlarges the pictures of 64 pixels.
    """

    samples: int
    tasks: tuple[str, ...] = _TASKS
    seed: int = 0
    prompt: str = "{question}"
    max_tokens: Positive = 5
    picture_side: int = PLATES_SIZE
    name: str = "plates"

    def __post_init__(self) -> None:
        if not self.tasks or not set(self.tasks) <= set(_TASKS):
            raise BenchmarkError(f"dataset.tasks={list(self.tasks)}: choose from {', '.join(_TASKS)}")
        for key, least in (("samples", 1), ("seed", 0), ("picture_side", 1)):
            if getattr(self, key) < least:
                raise BenchmarkError(f"dataset.{key}={getattr(self, key)} must be at least {least}")
        if self.picture_side > LARGEST:
            raise BenchmarkError(f"dataset.picture_side={self.picture_side} must be at most {LARGEST}")
        require_slot("prompt", self.prompt, "{question}")

    def __len__(self) -> int:
        return self.samples

    def sample_id(self, index: int) -> str:
        return f"plates-{self.seed}-{index}-{self._task(index)}"

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.samples:
            raise IndexError(index)
        task, turn = self._task(index), index // len(self.tasks)
        kind = "read" if task in _SIZES else _WITHOUT_READING[turn % len(_WITHOUT_READING)]
        scene, question = plates_and_question(self.seed, index, kind, _SIZES.get(task))
        side = (self.picture_side, self.picture_side)
        picture = Image.fromarray(scene.image).resize(side, Image.Resampling.NEAREST)
        text = self.prompt.replace("{question}", question.text)
        return Sample(self.sample_id(index), task, (picture,), text, (question.answer,), {"kind": kind})

    def score(self, sample: Sample, prediction: str) -> Scores:
        return {f"{sample.task}/exact_match": exact_match(sample.target, prediction)}

    def max_new_tokens(self, task: str) -> int:
        return self.max_tokens

    def _task(self, index: int) -> str:
        return self.tasks[index % len(self.tasks)]
