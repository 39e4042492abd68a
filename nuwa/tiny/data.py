"""Training batches, drawn on the fly: a pure function of the recipe, the seed and the step."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from nuwa.scenes.questions import ask, sample_caption
from nuwa.scenes.scene import COLORS, SHAPE_SIZES, SHAPES, Scene, draw_scene
from nuwa.tiny.base import TinyModel
from nuwa.tiny.layers import PATCH_SIDE
from nuwa.tiny.recipe import Recipe, TrainingStage
from nuwa.tiny.vocabulary import Vocabulary

LONGEST_QUESTION = 16  # words of the longest question and tokens of its answer, without the end token
MAX_OBJECTS = 7
COVERED = 0.35  # share of a patch that a box must cover for the patch to belong to its object
CAPTION_WORDS = (*COLORS, *SHAPES)
CAPTIONS, NEGATIVES = 2048, 256  # in the bank, and in a batch
TRAIN, BANK = 1, 2  # last word of the seeds; 7 is held-out evaluation

TrainingBatch = dict[str, Tensor]


def draw_batches(tiny: TinyModel, recipe: Recipe, start: int, rank: int, world: int) -> Iterator[TrainingBatch]:
    """What process ``rank`` of ``world`` draws of the batches from step ``start`` on, each with its own seed."""
    bank = caption_bank(recipe.seed, CAPTIONS)
    for step in range(start, recipe.steps):
        rng = np.random.default_rng([recipe.seed, step, TRAIN, rank])
        stage, _ = recipe.stage_at(step)
        yield build_batch(tiny, stage, stage.batch // world, rng, bank)


def caption_bank(seed: int, size: int) -> Tensor:
    """Word counts (size, W) of captions of random scenes: text-only negatives for the contrastive loss."""
    rng = np.random.default_rng([seed, 0, BANK])
    return torch.stack([_caption(draw_scene(rng), rng) for _ in range(size)])


def _caption(scene: Scene, rng: np.random.Generator) -> Tensor:
    words = [CAPTION_WORDS.index(word) for word in sample_caption(scene, rng)]
    return torch.tensor(words).bincount(minlength=len(CAPTION_WORDS)).float()


def build_batch(
    tiny: TinyModel, stage: TrainingStage, size: int, rng: np.random.Generator, bank: Tensor
) -> TrainingBatch:
    """``size`` scenes of ``stage`` with patch labels, captions and, where the stage asks any, packed questions.

    Labels of patches (``owner``, ``classes``, ``sides``) and of visual tokens (``token_...``).
    """
    scenes = [draw_scene(rng, stage.size, stage.objects) for _ in range(size)]
    origins = rng.integers(0, tiny.grid - stage.size // tiny.token + 1, (size, 2))
    batch = _stack([_label_cells(scene, PATCH_SIDE) for scene in scenes])
    tokens = _stack([_label_cells(scene, tiny.token) for scene in scenes])
    batch |= {f"token_{name}": labels for name, labels in tokens.items()}
    batch["pixels"] = torch.from_numpy(np.stack([scene.image for scene in scenes])).float() / 255
    batch["origin"] = torch.from_numpy(origins)
    batch["roll"] = torch.from_numpy(rng.integers(0, tiny.grid, (size, 2)))
    batch["captions"] = torch.stack([_caption(scene, rng) for scene in scenes])
    batch["negatives"] = bank[torch.from_numpy(rng.choice(len(bank), NEGATIVES, replace=False))]
    if stage.questions:
        places = zip(scenes, origins * tiny.token, strict=True)
        batch |= _stack([_fill_slots(tiny.vocabulary, scene, rng, stage, place) for scene, place in places])
    return batch


def _stack(samples: list[dict[str, np.ndarray]]) -> TrainingBatch:
    return {name: torch.from_numpy(np.stack([sample[name] for sample in samples])) for name in samples[0]}


def _label_cells(scene: Scene, cell: int) -> dict[str, np.ndarray]:
    """Per square of ``cell`` pixels: object (0 = none), its colour, shape and size, distances to its box's sides."""
    side = len(scene.image) // cell
    centers_y, centers_x = np.mgrid[0:side, 0:side] * cell + cell / 2
    best = np.full((side, side), COVERED)
    owner = np.zeros((side, side), np.int64)
    classes = np.zeros((side, side, 3), np.int64)
    sides = np.zeros((side, side, 4), np.float32)
    for index, item in enumerate(scene.objects):
        x0, y0, x1, y1 = item.box
        wide = np.minimum(centers_x + cell / 2, x1) - np.maximum(centers_x - cell / 2, x0)
        high = np.minimum(centers_y + cell / 2, y1) - np.maximum(centers_y - cell / 2, y0)
        cover = wide.clip(0) * high.clip(0) / cell**2
        mine = cover >= best
        best[mine], owner[mine] = cover[mine], index + 1
        names = (list(COLORS).index(item.color), SHAPES.index(item.shape), SHAPE_SIZES.index(item.size))
        classes[mine] = np.array(names) + 1
        sides[mine] = np.stack([centers_x - x0, centers_y - y0, x1 - centers_x, y1 - centers_y], -1)[mine]
    return {"owner": owner.ravel(), "classes": classes.reshape(-1, 3), "sides": sides.reshape(-1, 4)}


def _fill_slots(
    words: Vocabulary, scene: Scene, rng: np.random.Generator, stage: TrainingStage, place: np.ndarray
) -> dict[str, np.ndarray]:
    """Token ids (M, L), next-token targets (-100 = none), lengths, kinds and the objects behind words and answers.

    ``place``: (y, x) in pixels of the scene's corner in the full picture, in which boxes are given.
    """
    slots, length = stage.questions, LONGEST_QUESTION + len(words.lead) + len(words.cue)
    filled = {
        "ids": np.full((slots, length), words.ids[words.pad]),
        "targets": np.full((slots, length), -100),
        "asked": np.ones(slots, np.int64),
        "length": np.ones(slots, np.int64),
        "relation": np.zeros(slots, bool),
        "boxed": np.zeros(slots, bool),
        "objects": np.zeros((slots, MAX_OBJECTS + 1), bool),
        "mentions": np.zeros((slots, length, MAX_OBJECTS + 1), bool),
    }
    for slot in range(slots):
        question = None
        while question is None:
            task = "vg" if rng.random() < stage.grounding else "vqa"
            question = ask(scene, rng, task, stage.mix if task == "vqa" else None) or ask(scene, rng, "vqa")
        prompt = words.encode_question(question.text)
        answer = [*words.encode_answer(question, *place), words.ids[words.eos]]
        tokens = (prompt + answer)[:-1]
        filled["ids"][slot, : len(tokens)] = tokens
        filled["targets"][slot, len(prompt) - 1 : len(tokens)] = answer
        filled["asked"][slot], filled["length"][slot] = len(prompt), len(tokens)
        filled["relation"][slot] = question.kind == "relation"
        filled["boxed"][slot] = question.box is not None
        filled["objects"][slot, np.array(question.targets, int) + 1] = True
        for position, named in question.mentions:
            filled["mentions"][slot, len(words.lead) + position, np.array(named, int) + 1] = True
    return filled
