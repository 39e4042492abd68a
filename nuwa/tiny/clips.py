"""What a model of videos is taught: clips with packed questions, and readings of place and time."""

from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nuwa.benchmarks.clips import Clips
from nuwa.scenes.clips import (
    CLIP_KINDS,
    CLIP_SIZE,
    DIRECTIONS,
    FLASHERS,
    FRAMES,
    MAX_FLASHES,
    MOVER,
    Clip,
    ask_clip,
    draw_clip,
)
from nuwa.scenes.questions import Question
from nuwa.tiny.base import WIDTH, TinyModel
from nuwa.tiny.data import TrainingBatch, label_cells, pack_questions, stack
from nuwa.tiny.layers import PATCH_SIDE
from nuwa.tiny.losses import Metrics, TrainingHeads
from nuwa.tiny.recipe import TrainingStage

POOLED = 2
GRID_SIDE = CLIP_SIZE // PATCH_SIDE // POOLED
CLIP_TOKENS = FRAMES * GRID_SIDE**2 + 1  # the newline follows
SIGHTINGS = 5 * FRAMES
TOKEN_COVERED = 0.18  # share of a token's square that belongs to the square that covers most of it

READINGS = {
    "frame": FRAMES,
    "row": GRID_SIDE,
    "column": GRID_SIDE,
    "appearance": MAX_FLASHES,
    "motion": len(DIRECTIONS),
}
"""What every token is asked inside the language model, and of how many: its frame, row and column; of a flashing
square, which appearance it is; of the moving one from its third frame on, where it goes."""


class ClipHeads(TrainingHeads):
    """What is read of place and time inside the language model, see `READINGS`."""

    def __init__(self) -> None:
        super().__init__()
        self.times = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, sum(READINGS.values())))


class TinyClipModel(TinyModel):
    """A tiny model that is asked about clips of `FRAMES` frames, whose patches are pooled to tokens."""

    benchmark = Clips
    kinds = tasks = tuple(CLIP_KINDS)
    longest = 8
    conditions: ClassVar[dict[str, dict[str, str]]] = {"accuracy": {}} | {
        order: {"frame_order": order} for order in ("reversed", "shuffled")
    }

    def new_heads(self) -> ClipHeads:
        return ClipHeads()

    def draw(self, stage: TrainingStage, size: int, rng: np.random.Generator, seed: int) -> TrainingBatch:
        clips = [draw_clip(rng) for _ in range(size)]
        batch = stack([label_cells(clip.scene(frame), PATCH_SIDE) for clip in clips for frame in range(FRAMES)])
        batch["pixels"] = torch.from_numpy(np.concatenate([clip.frames for clip in clips])).float() / 255
        batch["cells"] = torch.arange(CLIP_TOKENS).expand(size, -1)
        if stage.questions:
            batch |= stack([_label_tokens(clip) for clip in clips])
            batch |= stack([_ask(self, clip, rng, stage) for clip in clips])
        return batch

    def place_loss(self, heads: ClipHeads, visual: Tensor, batch: TrainingBatch) -> tuple[Tensor, Metrics]:
        """What `READINGS` lists; the metrics are shares of right answers."""
        losses, metrics = [], {}
        for name, logits in zip(READINGS, heads.times(visual).float().split(list(READINGS.values()), -1), strict=True):
            known = batch[name] >= 0
            losses.append(F.cross_entropy(logits[known], batch[name][known]))
            metrics[name] = (logits.argmax(-1) == batch[name])[known].float().mean()
        return torch.stack(losses).sum(), metrics


def _label_tokens(clip: Clip) -> dict[str, np.ndarray]:
    """Per token: its sighting (0 = none), colour, shape and size, and what `READINGS` lists (-1 = nothing to read)."""
    labels = {name: np.full(CLIP_TOKENS, -1) for name in READINGS}
    owner, classes = np.zeros(CLIP_TOKENS, np.int64), np.zeros((CLIP_TOKENS, 3), np.int64)
    cells = np.arange(CLIP_TOKENS - 1)
    labels["frame"][:-1], labels["row"][:-1] = cells // GRID_SIDE**2, cells // GRID_SIDE % GRID_SIDE
    labels["column"][:-1] = cells % GRID_SIDE
    for frame in range(FRAMES):
        seen = label_cells(clip.scene(frame), POOLED * PATCH_SIDE, TOKEN_COVERED)
        here = slice(frame * GRID_SIDE**2, (frame + 1) * GRID_SIDE**2)
        classes[here] = seen["classes"]
        numbers = [number for number, square in enumerate(clip.squares) if frame in square.boxes]
        for place, number in enumerate(numbers):
            mine = np.flatnonzero(seen["owner"] == place + 1) + here.start
            owner[mine] = number * FRAMES + frame + 1
            if number in FLASHERS:
                labels["appearance"][mine] = sum(start < frame for start in clip.squares[number].appearances)
            if number == MOVER and frame >= 2:
                labels["motion"][mine] = list(DIRECTIONS).index(clip.direction)
    return labels | {"token_owner": owner, "token_classes": classes}


def _ask(tiny: TinyModel, clip: Clip, rng: np.random.Generator, stage: TrainingStage) -> dict[str, np.ndarray]:
    shares = np.array(list(stage.mix.values()))
    questions: list[tuple[Question, list[int]]] = []
    while len(questions) < stage.questions:
        question = ask_clip(clip, rng, list(stage.mix)[rng.choice(len(shares), p=shares / shares.sum())])
        if question is not None:
            questions.append((question, tiny.vocabulary.encode_answer(question)))
    return pack_questions(tiny.vocabulary, questions, tiny.longest, tiny.kinds, SIGHTINGS)
