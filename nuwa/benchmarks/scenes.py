"""Generated scenes: questions and grounding on pictures whose truth is known by construction. Needs no data."""

from __future__ import annotations

import numpy as np
from PIL import Image

from nuwa.benchmarks.base import Benchmark, BenchmarkError, Sample, Scores
from nuwa.benchmarks.scoring import exact_match, grounding_scores
from nuwa.tiny.questions import ask
from nuwa.tiny.scenes import IMAGE_SIZE, draw_scene

HELD_OUT = 7
"""Third word of every seed here; training never draws from it (`nuwa.tiny.scenes`)."""
TASKS = ("vqa", "vg")


class Scenes(Benchmark):
    """``samples`` held-out scenes with one question each, the tasks taking turns, so that one job measures both.

    Sample i is a pure function of ``(seed, i)`` and ``tasks``. ``vqa_prompt`` and ``vg_prompt`` wrap the question (slot
    ``{question}``) for models that expect more words than the tiny one. ``picture_side`` enlarges the pictures of 96
    pixels to that side, for models whose tokens depend on it.
    """

    def __init__(
        self,
        samples: int,
        tasks: list[str] = TASKS,
        seed: int = 0,
        vqa_prompt: str = "{question}",
        vg_prompt: str = "{question}",
        vqa_max_new_tokens: int = 8,
        vg_max_new_tokens: int = 32,
        picture_side: int = IMAGE_SIZE,
        name: str = "scenes",
    ) -> None:
        unknown = [task for task in tasks if task not in TASKS]
        if unknown or not tasks:
            raise BenchmarkError(f"dataset.tasks={list(tasks)}: choose from {', '.join(TASKS)}")
        if samples < 1 or seed < 0:
            raise BenchmarkError(f"dataset.samples={samples} must be at least 1, dataset.seed={seed} at least 0")
        if picture_side < 1:
            raise BenchmarkError(f"dataset.picture_side={picture_side} must be at least 1")
        self.name, self.samples, self.tasks, self.seed = name, samples, tuple(tasks), seed
        self.prompts = {"vqa": vqa_prompt, "vg": vg_prompt}
        for task, prompt in self.prompts.items():
            if "{question}" not in prompt:
                raise BenchmarkError(f"dataset.{task}_prompt={prompt!r} lacks the slot {{question}}")
        self.limits = {"vqa": vqa_max_new_tokens, "vg": vg_max_new_tokens}
        self.picture_side = picture_side

    def __len__(self) -> int:
        return self.samples

    def sample_id(self, index: int) -> str:
        return f"scene-{self.seed}-{index}-{self._task(index)}"

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.samples:
            raise IndexError(index)
        rng = np.random.default_rng([self.seed, index, HELD_OUT])
        task, question = self._task(index), None
        while question is None:  # not every scene allows a question of every task
            scene = draw_scene(rng)
            question = ask(scene, rng, task)
        target = (question.answer,) if task == "vqa" else tuple(value / IMAGE_SIZE for value in question.box)
        text = self.prompts[task].replace("{question}", question.text)
        meta = {"kind": question.kind, "objects": len(scene.objects)}
        side = (self.picture_side, self.picture_side)
        picture = Image.fromarray(scene.image).resize(side, Image.Resampling.NEAREST)
        return Sample(self.sample_id(index), task, (picture,), text, target, meta)

    def score(self, sample: Sample, prediction: str) -> Scores:
        if sample.task == "vqa":
            return {"vqa/exact_match": exact_match(sample.target, prediction)}
        return grounding_scores(sample.target, prediction)

    def max_new_tokens(self, task: str) -> int:
        return self.limits[task]

    def _task(self, index: int) -> str:
        return self.tasks[index % len(self.tasks)]
