"""Generated scenes: questions and grounding on pictures whose truth is known by construction. Needs no data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np

from nuwa.benchmarks.base import Scores
from nuwa.benchmarks.generated import HELD_OUT, LARGEST, Generated, enlarged
from nuwa.benchmarks.scoring import exact_match, grounding_scores
from nuwa.samples import Sample
from nuwa.scenes.questions import Question, ask
from nuwa.scenes.scene import IMAGE_SIZE, Scene, draw_scene
from nuwa.schema import Positive

_TASKS = ("vqa", "vg")
_TRIES = 20
"""How often a further question about a scene is drawn, as most scenes do not allow questions of every kind."""


@lru_cache(maxsize=1)
def scene_and_questions(seed: int, number: int, tasks: tuple[str, ...]) -> tuple[Scene, list[Question]]:
    """A held-out scene and a question of each task about it; a scene that does not allow them all is thrown away."""
    rng = np.random.default_rng([seed, number, HELD_OUT])
    while True:
        scene = draw_scene(rng)
        drawn = [
            next(filter(None, (ask(scene, rng, task) for _ in range(_TRIES if place else 1))), None)
            for place, task in enumerate(tasks)
        ]
        questions = [question for question in drawn if question is not None]
        if len(questions) == len(tasks):
            return scene, questions


@dataclass(eq=False)
class Scenes(Generated):
    """``samples`` questions about held-out scenes, the tasks taking turns, so that one job measures both.

    ``questions`` in a row are about the same scene. Sample i is a pure function of ``(seed, i, questions)`` and
    ``tasks``. ``vqa_prompt`` and ``vg_prompt`` wrap the question (slot ``{question}``) for models that expect more
    words than the tiny one. ``picture_side`` enlarges the pictures of 96 pixels, for models whose tokens depend on it.
    """

    samples: int
    tasks: tuple[str, ...] = _TASKS
    seed: int = 0
    vqa_prompt: str = "{question}"
    vg_prompt: str = "{question}"
    vqa_max_new_tokens: Positive = 8
    vg_max_new_tokens: Positive = 32
    picture_side: int = IMAGE_SIZE
    questions: int = 1
    name: str = "scenes"

    known_tasks = _TASKS
    kind = "scene"
    prompts = ("vqa_prompt", "vg_prompt")
    least: ClassVar = {**Generated.least, "picture_side": 1, "questions": 1}
    most: ClassVar = {"picture_side": LARGEST}

    def draw(self, index: int) -> Sample:
        number, place = divmod(index, self.questions)
        task, first = self.task_of(index), number * self.questions
        asked = tuple(self.task_of(first + later) for later in range(self.questions))
        scene, questions = scene_and_questions(self.seed, number, asked)
        question = questions[place]
        box = question.box
        target = (question.answer,) if box is None else tuple(value / IMAGE_SIZE for value in box)
        text = (self.vqa_prompt if task == "vqa" else self.vg_prompt).replace("{question}", question.text)
        meta = {"kind": question.kind, "objects": len(scene.objects)}
        return Sample(self.sample_id(index), task, (enlarged(scene.image, self.picture_side),), text, target, meta)

    def neighbourhood(self, index: int) -> tuple[str, int]:
        return f"scene {index // self.questions}", 0

    def score(self, sample: Sample, prediction: str) -> Scores:
        if sample.task == "vqa":
            return {"vqa/exact_match": exact_match(sample.target, prediction)}
        return grounding_scores(sample.target, prediction)

    def max_new_tokens(self, task: str) -> int:
        return self.vqa_max_new_tokens if task == "vqa" else self.vg_max_new_tokens
