"""Accuracy of a saved tiny LLaVA on held-out scenes, through the processor and ``generate`` of transformers."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from nuwa.tiny.questions import Question, ask
from nuwa.tiny.scenes import IMAGE_SIZE, Scene, draw_scene
from nuwa.tiny.vocabulary import prompt_text

HELD_OUT = 7  # last word of the seeds of held-out scenes; see nuwa/tiny/scenes.py
ANSWER_TOKENS = 12
_BOX = re.compile(r"\[(\d\.\d\d),(\d\.\d\d),(\d\.\d\d),(\d\.\d\d)\]")


@dataclass(frozen=True)
class Score:
    """Share of right answers of one kind of question; ``error`` is its standard error."""

    kind: str
    right: int
    asked: int

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return self.right / self.asked

    @property
    def error(self) -> float:
        """Binomial standard error of the accuracy."""
        return (self.accuracy * (1 - self.accuracy) / self.asked) ** 0.5


def held_out(task: str, count: int, seed: int = 0) -> list[tuple[Scene, Question]]:
    """``count`` held-out scenes with one question of ``task`` each."""
    pairs, index = [], 0
    while len(pairs) < count:
        rng = np.random.default_rng([seed, index, HELD_OUT])
        scene, index = draw_scene(rng), index + 1
        question = ask(scene, rng, task)
        if question is not None:
            pairs.append((scene, question))
    return pairs


@torch.no_grad()
def answer(model: LlavaForConditionalGeneration, processor: LlavaProcessor, pairs, batch: int = 20) -> list[str]:
    """Greedy answers, as text, to (scene, question) pairs."""
    answers = []
    for start in range(0, len(pairs), batch):
        part = pairs[start : start + batch]
        images = [Image.fromarray(scene.image) for scene, _ in part]
        prompts = [prompt_text(question.text) for _, question in part]
        inputs = processor(images=images, text=prompts, padding=True, return_tensors="pt")
        output = model.generate(**inputs, max_new_tokens=ANSWER_TOKENS, do_sample=False)
        new = output[:, inputs["input_ids"].shape[1] :]
        answers += [text.strip() for text in processor.batch_decode(new, skip_special_tokens=True)]
    return answers


def is_right(question: Question, text: str) -> bool:
    """Exact match of a word; IoU of at least 0.5 of a box."""
    if question.box is None:
        return text == question.answer
    found = _BOX.fullmatch(text)
    return bool(found) and _iou([float(value) * IMAGE_SIZE for value in found.groups()], question.box) >= 0.5


def _iou(a, b) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = sum(max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1]) for box in (a, b))
    return width * height / max(areas - width * height, 1e-9)


def evaluate(folder: Path, task: str, count: int, seed: int = 0) -> list[Score]:
    """Scores of the checkpoint in ``folder``: all questions of ``task`` first, then kind by kind."""
    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    processor = LlavaProcessor.from_pretrained(folder)
    pairs = held_out(task, count, seed)
    right = [
        is_right(question, text) for (_, question), text in zip(pairs, answer(model, processor, pairs), strict=True)
    ]
    kinds = [question.kind for _, question in pairs]
    scores = [Score(task, sum(right), len(right))]
    for kind in sorted(set(kinds)):
        mine = [hit for hit, name in zip(right, kinds, strict=True) if name == kind]
        scores.append(Score(kind, sum(mine), len(mine)))
    return scores
