"""What a model that reads is taught: pictures of plates with captions and packed questions."""

from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from nuwa.benchmarks.plates import Plates
from nuwa.scenes.plates import (
    GLYPHS,
    MAX_PLATES,
    PLACES,
    PLATE_KINDS,
    PLATES_SIZE,
    SCALES,
    PlateScene,
    ask_plates,
    draw_plates,
)
from nuwa.scenes.questions import sample_prominent
from nuwa.scenes.scene import COLORS
from nuwa.tiny.base import TinyModel
from nuwa.tiny.data import COVERED, TrainingBatch, own_cells, pack_questions, stack
from nuwa.tiny.layers import PATCH_SIDE
from nuwa.tiny.losses import Metrics, PictureHeads, count_words, position_loss
from nuwa.tiny.recipe import TrainingStage

PLATE_CLASSES = (len(COLORS) + 1, len(GLYPHS) + 1, PLACES + 1, len(SCALES) + 1)
"""What a patch shows: the colour of its plate, a digit, its place in the number, and the plate's size; 0 = none."""
DIGIT_COVERED = 0.15  # share of a patch that a digit must cover for the patch to show it


class TinyPlateModel(TinyModel):
    """A tiny model that is asked about plates with numbers."""

    benchmark = Plates
    kinds = tuple(PLATE_KINDS)
    tasks = Plates.tasks
    longest = 8 + PLACES
    size = PLATES_SIZE

    def new_heads(self) -> PictureHeads:
        return PictureHeads(PLATE_CLASSES)

    def draw(self, stage: TrainingStage, size: int, rng: np.random.Generator, seed: int) -> TrainingBatch:
        scenes = [draw_plates(rng) for _ in range(size)]
        batch = stack([_label_patches(scene) for scene in scenes])
        batch |= {f"token_{name}": batch[name] for name in ("owner", "classes", "sides")}
        batch["pixels"] = torch.from_numpy(np.stack([scene.image for scene in scenes])).float() / 255
        batch["cells"] = torch.arange(self.grid**2).expand(size, -1)
        batch["roll"] = torch.zeros(size, 2, dtype=torch.long)
        batch["captions"] = torch.stack([count_words(_named(scene, rng)) for scene in scenes])
        batch["negatives"] = torch.stack([count_words(named) for n in (1, 2) for named in combinations(COLORS, n)])
        if stage.questions:
            batch |= stack([_ask(self, scene, rng, stage) for scene in scenes])
        return batch

    def place_loss(self, heads: PictureHeads, visual: Tensor, batch: TrainingBatch) -> tuple[Tensor, Metrics]:
        """Absolute centre of every token and box of its plate."""
        return position_loss(heads, visual, batch["cells"], self.grid, self.size, batch)


def _label_patches(scene: PlateScene) -> dict[str, np.ndarray]:
    """Per patch: its plate (0 = none), what it shows (`PLATE_CLASSES`), and the distances to the sides of the plate."""
    plates = scene.plates
    owner, sides = own_cells([plate.box for plate in plates], PLATES_SIZE, PATCH_SIDE, COVERED)
    digits = [plate.digit_box(place) for plate in plates for place in range(PLACES)]
    digit, _ = own_cells(digits, PLATES_SIZE, PATCH_SIDE, DIGIT_COVERED)
    shown = np.array([(-1, -1), *((int(d), place) for plate in plates for place, d in enumerate(plate.number))])[digit]
    names = [(list(COLORS).index(plate.color), list(SCALES).index(plate.size)) for plate in plates]
    color, size = np.array([(-1, -1), *names])[owner].T
    return {"owner": owner, "classes": np.column_stack([color, shown, size]) + 1, "sides": sides}


def _named(scene: PlateScene, rng: np.random.Generator) -> list[str]:
    """Colours of the plates that a caption names."""
    return [scene.plates[i].color for i in sample_prominent([plate.prominence for plate in scene.plates], rng)]


def _ask(tiny: TinyModel, scene: PlateScene, rng: np.random.Generator, stage: TrainingStage) -> dict[str, np.ndarray]:
    kinds, shares = list(stage.mix), np.array(list(stage.mix.values()))
    asked = [
        ask_plates(scene, rng, kinds[rng.choice(len(kinds), p=shares / shares.sum())]) for _ in range(stage.questions)
    ]
    questions = [(question, tiny.vocabulary.encode_answer(question)) for question in asked]
    return pack_questions(tiny.vocabulary, questions, tiny.longest, tiny.kinds, MAX_PLATES)
