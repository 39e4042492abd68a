"""Training batches, drawn on the fly: a pure function of the recipe, the seed and the step."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from nuwa.scenes.questions import Question
from nuwa.scenes.scene import COLORS, SHAPE_SIZES, SHAPES, Scene
from nuwa.tiny.base import TinyModel
from nuwa.tiny.recipe import Recipe
from nuwa.tiny.vocabulary import Vocabulary

COVERED = 0.35  # share of a patch that a box must cover for the patch to belong to its object
TRAIN, BANK = 1, 2  # last word of the seeds; 7 is held-out evaluation

TrainingBatch = dict[str, Tensor]


def draw_batches(tiny: TinyModel, recipe: Recipe, start: int, rank: int, world: int) -> Iterator[TrainingBatch]:
    """What process ``rank`` of ``world`` draws of the batches from step ``start`` on, each with its own seed."""
    for step in range(start, recipe.steps):
        rng = np.random.default_rng([recipe.seed, step, TRAIN, rank])
        stage, _ = recipe.stage_at(step)
        yield tiny.draw(stage, stage.batch // world, rng, recipe.seed)


def stack(samples: Sequence[dict[str, np.ndarray]]) -> TrainingBatch:
    """Arrays of equal names, one above the other."""
    return {name: torch.from_numpy(np.stack([sample[name] for sample in samples])) for name in samples[0]}


def label_cells(scene: Scene, cell: int, covered: float = COVERED) -> dict[str, np.ndarray]:
    """Per square of ``cell`` pixels: object (0 = none), its colour, shape and size, distances to its box's sides."""
    owner, sides = own_cells([item.box for item in scene.objects], len(scene.image), cell, covered)
    names = [
        (list(COLORS).index(item.color), SHAPES.index(item.shape), SHAPE_SIZES.index(item.size))
        for item in scene.objects
    ]
    return {"owner": owner, "classes": np.array([(-1, -1, -1), *names])[owner] + 1, "sides": sides}


def own_cells(
    boxes: Sequence[tuple[int, int, int, int]], size: int, cell: int, covered: float
) -> tuple[np.ndarray, np.ndarray]:
    """Which box covers most of each square of ``cell`` pixels, if it covers the share ``covered``: its number from 1.

    Returns owners (N,) of the squares in raster order, 0 = none, and distances (N, 4) from a square's centre to the
    sides of its box.
    """
    side = size // cell
    centers_y, centers_x = np.mgrid[0:side, 0:side] * cell + cell / 2
    best = np.full((side, side), covered)
    owner = np.zeros((side, side), np.int64)
    sides = np.zeros((side, side, 4), np.float32)
    for index, (x0, y0, x1, y1) in enumerate(boxes):
        wide = np.minimum(centers_x + cell / 2, x1) - np.maximum(centers_x - cell / 2, x0)
        high = np.minimum(centers_y + cell / 2, y1) - np.maximum(centers_y - cell / 2, y0)
        cover = wide.clip(0) * high.clip(0) / cell**2
        mine = cover >= best
        best[mine], owner[mine] = cover[mine], index + 1
        sides[mine] = np.stack([centers_x - x0, centers_y - y0, x1 - centers_x, y1 - centers_y], -1)[mine]
    return owner.ravel(), sides.reshape(-1, 4)


def pack_questions(
    words: Vocabulary, questions: Sequence[tuple[Question, list[int]]], longest: int, kinds: Sequence[str], objects: int
) -> dict[str, np.ndarray]:
    """Token ids (M, L), next-token targets (-100 = none), lengths, kinds and the objects behind words and answers.

    ``questions`` with the ids of their answers; ``longest``: words of the longest question and tokens of its answer,
    without the end token. ``objects``: the highest number of an object.
    """
    slots, length = len(questions), longest + len(words.lead) + len(words.cue)
    filled = {
        "ids": np.full((slots, length), words.ids[words.pad]),
        "targets": np.full((slots, length), -100),
        "asked": np.ones(slots, np.int64),
        "length": np.ones(slots, np.int64),
        "kind": np.zeros(slots, np.int64),
        "boxed": np.zeros(slots, bool),
        "objects": np.zeros((slots, objects + 1), bool),
        "mentions": np.zeros((slots, length, objects + 1), bool),
    }
    for slot, (question, answer) in enumerate(questions):
        prompt = words.encode_question(question.text)
        answer = [*answer, words.ids[words.eos]]
        tokens = (prompt + answer)[:-1]
        filled["ids"][slot, : len(tokens)] = tokens
        filled["targets"][slot, len(prompt) - 1 : len(tokens)] = answer
        filled["asked"][slot], filled["length"][slot] = len(prompt), len(tokens)
        filled["kind"][slot] = kinds.index(question.kind)
        filled["boxed"][slot] = question.box is not None
        filled["objects"][slot, np.array(question.targets, int) + 1] = True
        for position, named in question.mentions:
            filled["mentions"][slot, len(words.lead) + position, np.array(named, int) + 1] = True
    return filled
