"""Generated clips: questions about time whose answers are known by construction. Needs no data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from nuwa.benchmarks.base import BenchmarkError, Scores, mean_scores
from nuwa.benchmarks.generated import HELD_OUT, Generated
from nuwa.benchmarks.scoring import exact_match
from nuwa.samples import Sample, Video
from nuwa.scenes.clips import CLIP_KINDS, FRAMES, Clip, ask_clip, draw_clip
from nuwa.scenes.questions import Question
from nuwa.schema import Positive

FRAME_ORDERS = ("forward", "reversed", "shuffled")


def clip_and_question(seed: int, index: int, kind: str) -> tuple[Clip, Question]:
    """A held-out clip and a question of ``kind`` about it; a clip that does not allow one is thrown away."""
    rng = np.random.default_rng([seed, index, HELD_OUT])
    while True:
        clip = draw_clip(rng)
        question = ask_clip(clip, rng, kind)
        if question is not None:
            return clip, question


@dataclass(eq=False)
class Clips(Generated):
    """``samples`` questions about held-out clips of 8 seconds, ``repeats`` frames in each, the ``tasks`` in turns.

    Sample i is a pure function of ``(seed, i)`` and its task. ``frame_order`` shows the frames as they are, last first,
    or shuffled, with the times of a video in order; questions and answers stay, so that it tells which answers come
    from time. ``prompt`` wraps the question (slot ``{question}``).
    """

    samples: int
    tasks: tuple[str, ...] = tuple(CLIP_KINDS)
    seed: int = 0
    frame_order: str = "forward"
    prompt: str = "{question}"
    max_tokens: Positive = 4
    repeats: Positive = 1
    name: str = "clips"

    known_tasks = tuple(CLIP_KINDS)
    kind = "clip"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.frame_order not in FRAME_ORDERS:
            raise BenchmarkError(f"dataset.frame_order={self.frame_order}: choose from {', '.join(FRAME_ORDERS)}")

    def draw(self, index: int) -> Sample:
        clip, question = clip_and_question(self.seed, index, self.task_of(index))
        frames = tuple(Image.fromarray(clip.frames[frame]) for frame in self._order(index) for _ in range(self.repeats))
        video = Video(frames, tuple(place / self.repeats for place in range(len(frames))))
        text = self.prompt.replace("{question}", question.text)
        return Sample(
            self.sample_id(index), question.kind, (), text, (question.answer,), {"kind": question.kind}, videos=(video,)
        )

    def score(self, sample: Sample, prediction: str) -> Scores:
        return {f"{sample.task}/exact_match": exact_match(sample.target, prediction)}

    def numbers(self, means: Scores) -> Scores:
        """The mean over tasks, then every task."""
        if not means:
            return means
        return {"video/mean": mean_scores([{"mean": value} for value in means.values()])["mean"], **means}

    def max_new_tokens(self, task: str) -> int:
        return self.max_tokens

    def _order(self, index: int) -> list[int]:
        if self.frame_order == "shuffled":
            return np.random.default_rng([self.seed, index, HELD_OUT, 1]).permutation(FRAMES).tolist()
        return list(range(FRAMES))[:: -1 if self.frame_order == "reversed" else 1]
