"""What the models of still pictures are taught: scenes with captions and packed questions."""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from nuwa.benchmarks.scenes import Scenes
from nuwa.scenes.questions import VG_MIX, VQA_MIX, Question, ask, sample_caption
from nuwa.scenes.scene import Scene, draw_scene
from nuwa.tiny.base import TinyModel
from nuwa.tiny.data import BANK, TrainingBatch, label_cells, pack_questions, stack
from nuwa.tiny.layers import PATCH_SIDE, window_cells
from nuwa.tiny.losses import Metrics, PictureHeads, count_words, position_loss
from nuwa.tiny.recipe import TrainingStage

MAX_OBJECTS = 7
CAPTIONS, NEGATIVES = 2048, 256  # in the bank, and in a batch


class TinyPictureModel(TinyModel):
    """A tiny model that is asked about pictures."""

    benchmark = Scenes
    kinds = tuple(dict.fromkeys((*VQA_MIX, *VG_MIX)))
    tasks = ("vqa", "vg")
    longest = 16

    def new_heads(self) -> PictureHeads:
        return PictureHeads()

    def draw(self, stage: TrainingStage, size: int, rng: np.random.Generator, seed: int) -> TrainingBatch:
        return build_batch(self, stage, size, rng, caption_bank(seed, CAPTIONS))

    def place_loss(self, heads: PictureHeads, visual: Tensor, batch: TrainingBatch) -> tuple[Tensor, Metrics]:
        """Absolute centre of every token and box of its object."""
        return position_loss(heads, visual, batch["cells"], self.grid, self.size, batch)


@lru_cache
def caption_bank(seed: int, size: int) -> Tensor:
    """Word counts (size, W) of captions of random scenes: text-only negatives for the contrastive loss."""
    rng = np.random.default_rng([seed, 0, BANK])
    return torch.stack([count_words(sample_caption(draw_scene(rng), rng)) for _ in range(size)])


def build_batch(
    tiny: TinyModel, stage: TrainingStage, size: int, rng: np.random.Generator, bank: Tensor
) -> TrainingBatch:
    """``size`` scenes of ``stage`` with patch labels, captions and, where the stage asks any, packed questions.

    Labels of patches (``owner``, ``classes``, ``sides``) and of visual tokens (``token_...``).
    """
    scenes = [draw_scene(rng, stage.size, stage.objects) for _ in range(size)]
    origins = rng.integers(0, tiny.grid - stage.size // tiny.token + 1, (size, 2))
    batch = stack([label_cells(scene, PATCH_SIDE) for scene in scenes])
    tokens = stack([label_cells(scene, tiny.token) for scene in scenes])
    batch |= {f"token_{name}": labels for name, labels in tokens.items()}
    batch["pixels"] = torch.from_numpy(np.stack([scene.image for scene in scenes])).float() / 255
    batch["cells"] = window_cells(stage.size // tiny.token, torch.from_numpy(origins), tiny.grid)
    batch["roll"] = torch.from_numpy(rng.integers(0, tiny.grid, (size, 2)))
    batch["captions"] = torch.stack([count_words(sample_caption(scene, rng)) for scene in scenes])
    batch["negatives"] = bank[torch.from_numpy(rng.choice(len(bank), NEGATIVES, replace=False))]
    if stage.questions:
        places = zip(scenes, origins * tiny.token, strict=True)
        batch |= stack([_ask(tiny, scene, rng, stage, place) for scene, place in places])
    return batch


def _ask(
    tiny: TinyModel, scene: Scene, rng: np.random.Generator, stage: TrainingStage, place: np.ndarray
) -> dict[str, np.ndarray]:
    """``place``: (y, x) in pixels of the scene's corner in the full picture, in which boxes are given."""
    questions: list[tuple[Question, list[int]]] = []
    while len(questions) < stage.questions:
        task = "vg" if rng.random() < stage.grounding else "vqa"
        question = ask(scene, rng, task, stage.mix if task == "vqa" else None) or ask(scene, rng, "vqa")
        if question is not None:
            questions.append((question, tiny.vocabulary.encode_answer(question, *place)))
    return pack_questions(tiny.vocabulary, questions, tiny.longest, tiny.kinds, MAX_OBJECTS)
