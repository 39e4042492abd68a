"""The tiny video model: a stock ``LlavaOnevisionForConditionalGeneration`` behind a SigLIP tower, asked about clips.

The tower sees every frame alone, so that when something happens can only be read from position ids.
"""

from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2Config,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
)

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
from nuwa.tiny.base import PIXELS, VISION_HEADS, VISION_WIDTH, WIDTH, TinyModel, fourier_table
from nuwa.tiny.data import TrainingBatch, label_cells, pack_questions, stack
from nuwa.tiny.layers import PATCH_SIDE, Network, attend, cut_patches, project_heads
from nuwa.tiny.losses import Metrics, TrainingHeads
from nuwa.tiny.recipe import TrainingStage
from nuwa.tiny.vocabulary import ONEVISION, chat_tokenizer

POOL = 2
GRID_SIDE = CLIP_SIZE // PATCH_SIDE // POOL
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


class TinyVideo(TinyModel):
    """LLaVA-OneVision's architecture: no CLS token, 2 x 2 patches pooled to a token, one newline after the video."""

    name = "video"
    vocabulary = ONEVISION
    architecture = LlavaOnevisionForConditionalGeneration
    tokenizer = staticmethod(partial(chat_tokenizer, ONEVISION))
    size = CLIP_SIZE
    layers = 8
    vision_layers = 3
    kinds = tasks = tuple(CLIP_KINDS)
    longest = 8
    conditions: ClassVar[dict[str, dict[str, str]]] = {"accuracy": {}} | {
        order: {"frame_order": order} for order in ("reversed", "shuffled")
    }
    token = POOL * PATCH_SIDE
    span = CLIP_TOKENS
    sections = (16,)
    theta = 4000.0

    def config(self) -> LlavaOnevisionConfig:
        vision = SiglipVisionConfig(
            hidden_size=VISION_WIDTH,
            intermediate_size=2 * VISION_WIDTH,
            num_hidden_layers=self.vision_layers,
            num_attention_heads=VISION_HEADS,
            image_size=CLIP_SIZE,
            patch_size=PATCH_SIDE,
            vision_use_head=False,
        )
        rope = {"rope_type": "default", "rope_theta": self.theta}
        text = Qwen2Config(**self.text_options(), bos_token_id=None, rope_parameters=rope)
        return LlavaOnevisionConfig(
            vision_config=vision.to_dict(),
            text_config=text.to_dict(),
            image_token_index=ONEVISION.ids["<image>"],
            video_token_index=ONEVISION.ids["<video>"],
            image_grid_pinpoints=[[CLIP_SIZE, CLIP_SIZE]],
            tie_word_embeddings=False,
        )

    def start_tower(self, model: Network) -> None:
        """Patch embedding at the scale of its input; the learned position table starts as waves that close."""
        embed = model.model.vision_tower.embeddings
        embed.patch_embedding.weight.normal_(std=(3 * PATCH_SIDE * PATCH_SIDE) ** -0.5)
        table = embed.position_embedding.weight
        table.normal_(std=0.02)
        waves = fourier_table(CLIP_SIZE // PATCH_SIDE, harmonics=4)
        table[:, : waves.shape[1]] += waves

    def encode(self, model: Network, batch: dict[str, Tensor]) -> tuple[Tensor, None]:
        tower = model.model.vision_tower
        embed, patches = tower.embeddings, cut_patches(batch["pixels"]).flatten(1, 2)
        filters = embed.patch_embedding
        hidden = F.linear(patches, filters.weight.flatten(1), filters.bias) + embed.position_embedding.weight
        for layer in tower.encoder.layers:
            mixed = attend(*project_heads(layer.self_attn, layer.layer_norm1(hidden)))
            hidden = hidden + layer.self_attn.out_proj(mixed.transpose(1, 2).flatten(2))
            hidden = hidden + layer.mlp(layer.layer_norm2(hidden))
        return hidden, None

    def project(self, model: Network, patches: Tensor) -> Tensor:
        projected = model.model.multi_modal_projector(patches)
        squares = projected.unflatten(1, (GRID_SIDE, POOL, GRID_SIDE, POOL)).mean((2, 4))
        frames = squares.flatten(1, 2).unflatten(0, (-1, FRAMES)).flatten(1, 2)
        newline = model.model.image_newline.to(frames.dtype).expand(len(frames), 1, -1)
        return torch.cat([frames, newline], 1)

    def places(self, cells: Tensor) -> Tensor:
        return cells[:, None]

    def new_heads(self) -> ClipHeads:
        return ClipHeads()

    def draw(self, stage: TrainingStage, size: int, rng: np.random.Generator, seed: int) -> TrainingBatch:
        clips = [draw_clip(rng) for _ in range(size)]
        batch = stack([label_cells(clip.scene(frame), PATCH_SIDE) for clip in clips for frame in range(FRAMES)])
        batch["pixels"] = torch.from_numpy(np.concatenate([clip.frames for clip in clips])).float() / 255
        batch["cells"] = torch.arange(CLIP_TOKENS).expand(size, -1)
        if stage.questions:
            batch |= stack([_label_tokens(clip) for clip in clips])
            batch |= stack([_ask(clip, rng, stage) for clip in clips])
        return batch

    def place_loss(self, heads: ClipHeads, visual: Tensor, batch: TrainingBatch) -> tuple[Tensor, Metrics]:
        """What `READINGS` lists; the metrics are shares of right answers."""
        losses, metrics = [], {}
        for name, logits in zip(READINGS, heads.times(visual).float().split(list(READINGS.values()), -1), strict=True):
            known = batch[name] >= 0
            losses.append(F.cross_entropy(logits[known], batch[name][known]))
            metrics[name] = (logits.argmax(-1) == batch[name])[known].float().mean()
        return torch.stack(losses).sum(), metrics

    def save_processor(self, folder: Path) -> None:
        """SigLIP's preprocessing of frames of 32 pixels."""
        self.tokenizer().save_pretrained(folder)
        size = {"height": CLIP_SIZE, "width": CLIP_SIZE}
        SiglipImageProcessorPil(size=size, **PIXELS).save_pretrained(folder)


def _label_tokens(clip: Clip) -> dict[str, np.ndarray]:
    """Per token: its sighting (0 = none), colour, shape and size, and what `READINGS` lists (-1 = nothing to read)."""
    labels = {name: np.full(CLIP_TOKENS, -1) for name in READINGS}
    owner, classes = np.zeros(CLIP_TOKENS, np.int64), np.zeros((CLIP_TOKENS, 3), np.int64)
    cells = np.arange(CLIP_TOKENS - 1)
    labels["frame"][:-1], labels["row"][:-1] = cells // GRID_SIDE**2, cells // GRID_SIDE % GRID_SIDE
    labels["column"][:-1] = cells % GRID_SIDE
    for frame in range(FRAMES):
        seen = label_cells(clip.scene(frame), POOL * PATCH_SIDE, TOKEN_COVERED)
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


def _ask(clip: Clip, rng: np.random.Generator, stage: TrainingStage) -> dict[str, np.ndarray]:
    shares = np.array(list(stage.mix.values()))
    questions: list[tuple[Question, list[int]]] = []
    while len(questions) < stage.questions:
        question = ask_clip(clip, rng, list(stage.mix)[rng.choice(len(shares), p=shares / shares.sum())])
        if question is not None:
            questions.append((question, ONEVISION.encode_answer(question)))
    return pack_questions(ONEVISION, questions, TinyVideo.longest, TinyVideo.kinds, SIGHTINGS)
