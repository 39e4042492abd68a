"""What the tiny models have in common: everything that training, evaluation and export need of one."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from nuwa.benchmarks.base import Benchmark
from nuwa.scenes.scene import IMAGE_SIZE
from nuwa.tiny.layers import PIXEL_MEAN, PIXEL_STD, Network
from nuwa.tiny.recipe import TrainingStage
from nuwa.tiny.vocabulary import Vocabulary

VISION_WIDTH, VISION_HEADS = 96, 3
WIDTH, HEADS, MLP_WIDTH = 128, 4, 256
PIXELS: dict[str, Any] = {"image_mean": [PIXEL_MEAN] * 3, "image_std": [PIXEL_STD] * 3}
"""How a processor normalises pictures."""
RESIDUAL_ENDS = ("o_proj.weight", "down_proj.weight", "out_proj.weight", "fc2.weight", "attn.proj.weight")
"""Ends of the names of the matrices that end a residual branch, two in a layer."""


class TinyModel(ABC):
    """One tiny model. Shape letters: B pictures, N visual tokens.

    ``size`` is the side of a picture or frame in pixels, ``layers`` and ``vision_layers`` the depth of the language
    model and of the tower. ``token`` is the side of a visual token in pixels. The rotary pairs of the language model
    turn by the id on each axis, ``sections`` pairs per axis.
    """

    name: ClassVar[str]
    vocabulary: ClassVar[Vocabulary]
    architecture: ClassVar[type[PreTrainedModel]]
    size: ClassVar[int] = IMAGE_SIZE
    layers: ClassVar[int] = 16
    vision_layers: ClassVar[int] = 4
    kinds: ClassVar[tuple[str, ...]]
    """Kinds of questions, in the order in which batches number them."""
    longest: ClassVar[int]
    """Words of the longest question and tokens of its answer, without the end token."""
    benchmark: ClassVar[type[Benchmark]]
    """What the model is asked about pictures or clips that training never draws."""
    tasks: ClassVar[tuple[str, ...]]
    """Tasks of the benchmark."""
    conditions: ClassVar[dict[str, dict[str, str]]] = {"accuracy": {}}
    """Tables of the card: the name of each and the benchmark's options that it is measured with."""
    token: ClassVar[int]
    sections: ClassVar[tuple[int, ...]]
    tokenizer: ClassVar[Callable[[], PreTrainedTokenizerFast]]
    """Makes the tokenizer that is exported."""

    @property
    @abstractmethod
    def span(self) -> int:
        """Position ids that a picture or clip takes."""

    @property
    @abstractmethod
    def theta(self) -> float:
        """Base of the rotary pairs."""

    @property
    def grid(self) -> int:
        """Visual tokens along the side of a whole picture."""
        return self.size // self.token

    @property
    def recipe(self) -> Path:
        """How the shipped weights were trained."""
        return Path(__file__).with_name(f"recipe_{self.name}.yaml")

    @property
    def folder(self) -> Path:
        """Where the shipped weights are."""
        return Path(__file__).with_name(self.name)

    @torch.no_grad()
    def build_model(self, seed: int) -> PreTrainedModel:
        """A freshly initialised model; the stock standard deviation of 0.02 is too small for matrices of width 100."""
        torch.manual_seed(seed)
        model: Network = self.architecture(self.config())
        for name, weight in model.named_parameters():
            if weight.ndim == 2 and "embed" not in name:
                nn.init.normal_(weight, std=0.8 * weight.shape[1] ** -0.5)
            if name.endswith(RESIDUAL_ENDS):
                weight.mul_((2 * (self.layers if "language_model" in name else self.vision_layers)) ** -0.5)
        model.model.language_model.embed_tokens.weight.normal_(std=0.5)
        self.start_tower(model)
        return model

    @abstractmethod
    def new_heads(self) -> nn.Module:
        """What training adds to the model and export drops."""

    @abstractmethod
    def draw(self, stage: TrainingStage, size: int, rng: np.random.Generator, seed: int) -> dict[str, Tensor]:
        """A training batch of ``size`` pictures or clips; ``seed`` is the recipe's, for what all batches share.

        It holds what the tower reads (``pixels``), labels of patches and of visual tokens (``token_...``), the
        ``cells`` that the visual tokens fill, and where the stage asks questions, their slots (`nuwa.tiny.data`).
        """

    @abstractmethod
    def place_loss(self, heads: Any, visual: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """How well states (B, N, d) of the visual tokens inside the language model tell where they are, and when."""

    @abstractmethod
    def config(self) -> PreTrainedConfig:
        """Configuration of the model."""

    def text_options(self) -> dict[str, Any]:
        """What the configurations of both language models say."""
        words = self.vocabulary
        return {
            "vocab_size": len(words.tokens),
            "hidden_size": WIDTH,
            "intermediate_size": MLP_WIDTH,
            "num_hidden_layers": self.layers,
            "num_attention_heads": HEADS,
            "num_key_value_heads": HEADS,
            "max_position_embeddings": 1024,
            "pad_token_id": words.ids[words.pad],
            "eos_token_id": words.ids[words.eos],
        }

    @abstractmethod
    def start_tower(self, model: Network) -> None:
        """Initialise what is special about the tower, in place and without gradients."""

    @abstractmethod
    def encode(self, model: Network, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """The tower on ``batch["pixels"]`` (B, S, S, 3) in [0, 1].

        Returns states (B, P, dv) of the patches in raster order, and one state (B, dv) of the whole picture, if any.
        """

    @abstractmethod
    def project(self, model: Network, patches: Tensor) -> Tensor:
        """Patches (B, P, dv) to visual tokens (B, N, d)."""

    @abstractmethod
    def places(self, cells: Tensor) -> Tensor:
        """Position ids (B, axes, N) of visual tokens at ``cells`` (B, N) of the full grid, from 0."""

    def angles(self, cells: Tensor, slots: int, length: int) -> Tensor:
        """Rotary angles (B, T, 16) of prefix, visual tokens at ``cells`` (B, N) of the full grid, and question slots.

        All ``slots`` of ``length`` tokens have the same position ids.
        """
        first = len(self.vocabulary.before)
        places = first + self.places(cells)
        text = first + self.span + torch.arange(length).repeat(slots)
        before, after = (ids.expand(*places.shape[:2], -1) for ids in (torch.arange(first), text))
        ids = torch.cat([before, places, after], 2)
        half = WIDTH // HEADS // 2
        axis = torch.arange(len(self.sections)).repeat_interleave(torch.tensor(self.sections))
        return ids[:, axis].mT.float() * self.theta ** (-torch.arange(half).float() / half)

    @abstractmethod
    def save_processor(self, folder: Path) -> None:
        """Save what prepares pictures beside the weights."""


def fourier_table(grid: int, harmonics: int) -> Tensor:
    """(grid * grid, 4 x harmonics) waves over rows and columns that close on themselves."""
    cells, waves = torch.arange(grid**2), torch.arange(1, harmonics + 1)
    columns = []
    for axis in (cells // grid, cells % grid):
        angle = 2 * math.pi * axis[:, None] * waves / grid
        columns += [angle.sin() * 1.2 / waves.sqrt(), angle.cos() * 1.2 / waves.sqrt()]
    return torch.cat(columns, 1)
