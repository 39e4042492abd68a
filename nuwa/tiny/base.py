"""What the two tiny models have in common: everything that training, evaluation and export need of one."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from nuwa.scenes.scene import IMAGE_SIZE
from nuwa.tiny.vocabulary import Vocabulary

PATCH_SIDE = 4
"""Side of a patch of the towers in pixels."""
VISION_WIDTH, VISION_LAYERS, VISION_HEADS = 96, 4, 3
WIDTH, LAYERS, HEADS, MLP_WIDTH = 128, 16, 4, 256
PIXEL_MEAN, PIXEL_STD = 0.5, 0.25

Network = Any
"""A stock transformers model or a part of one; what such a part holds has no declared type."""


class TinyModel(ABC):
    """One tiny model; ``token`` is the side of a visual token in pixels. Shape letters: B pictures, N visual tokens."""

    name: ClassVar[str]
    vocabulary: ClassVar[Vocabulary]
    architecture: ClassVar[type[PreTrainedModel]]
    token: ClassVar[int]
    tokenizer: ClassVar[Callable[[], PreTrainedTokenizerFast]]
    """Makes the tokenizer that is exported."""

    @property
    def grid(self) -> int:
        """Visual tokens along the side of a whole picture."""
        return IMAGE_SIZE // self.token

    @property
    def recipe(self) -> Path:
        """How the shipped weights were trained."""
        return Path(__file__).with_name(f"recipe_{self.name}.yaml")

    @property
    def folder(self) -> Path:
        """Where the shipped weights are."""
        return Path(__file__).with_name(self.name)

    @property
    def card(self) -> Path:
        """Template of the model card."""
        return Path(__file__).with_name(f"card_{self.name}.md")

    @abstractmethod
    def build_model(self, seed: int) -> PreTrainedModel:
        """A freshly initialised model."""

    @abstractmethod
    def encode(self, model: Network, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The tower on ``batch["pixels"]`` (B, S, S, 3) in [0, 1].

        Returns states (B, P, dv) of the patches in raster order, and one state (B, dv) of the whole picture.
        """

    @abstractmethod
    def project(self, model: Network, patches: Tensor) -> Tensor:
        """Patches (B, P, dv) to visual tokens (B, N, d)."""

    @abstractmethod
    def angles(self, cells: Tensor, slots: int, length: int) -> Tensor:
        """Rotary angles (B, T, 16) of prefix, visual tokens at ``cells`` (B, N) of the full grid, and question slots.

        All ``slots`` of ``length`` tokens have the same position ids.
        """

    @abstractmethod
    def save_processor(self, folder: Path) -> None:
        """Save what prepares pictures beside the weights."""


def window_cells(side: int, origin: Tensor, grid: int, wrap: bool = False) -> Tensor:
    """Row-major ids (B, side * side) of a window at ``origin`` (B, 2) = (row, column) in a square ``grid``."""
    steps = torch.arange(side)
    rows, columns = steps + origin[:, :1], steps + origin[:, 1:]
    if wrap:
        rows, columns = rows % grid, columns % grid
    return (rows[:, :, None] * grid + columns[:, None, :]).flatten(1)


def cut_patches(pixels: Tensor) -> Tensor:
    """Normalised patches (B, rows, columns, 3 * 4 * 4), channels first, of ``pixels`` (B, S, S, 3) in [0, 1]."""
    batch, side = len(pixels), pixels.shape[1] // PATCH_SIDE
    patches = ((pixels - PIXEL_MEAN) / PIXEL_STD).view(batch, side, PATCH_SIDE, side, PATCH_SIDE, 3)
    return patches.permute(0, 1, 3, 5, 2, 4).reshape(batch, side, side, -1)


def project_heads(block: Network, hidden: Tensor) -> Iterator[Tensor]:
    """Queries, keys and values (B, H, T, head) of an attention block for ``hidden`` (B, T, d)."""
    for projection in (block.q_proj, block.k_proj, block.v_proj):
        yield projection(hidden).unflatten(-1, (-1, block.head_dim)).transpose(1, 2)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention written out: on a CPU the fused kernel's backward is slower."""
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    if mask is not None:
        scores = scores + mask
    return scores.softmax(-1, dtype=scores.dtype) @ value


def waves(angles: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine and sine (..., T, head) of rotary ``angles`` (..., T, head / 2), halves paired as in Llama."""
    angles = torch.cat([angles, angles], -1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def apply_rope(states: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate ``states`` (..., T, head) by what `waves` gives."""
    first, second = states.chunk(2, -1)
    return states * rope[0] + torch.cat([-second, first], -1) * rope[1]


def rms_norm(norm: Network, hidden: Tensor) -> Tensor:
    """A transformers RMSNorm in the dtype of ``hidden``."""
    return nn.functional.rms_norm(hidden, (hidden.shape[-1],), norm.weight.to(hidden.dtype), norm.variance_epsilon)


@torch.no_grad()
def rescale(model: Network, deep: dict[str, int]) -> None:
    """Draw all matrices anew: the stock standard deviation of 0.02 is too small for a width of 100.

    ``deep``: matrices that end a residual branch, by the end of their name, and how many such branches add up.
    """
    for name, weight in model.named_parameters():
        if weight.ndim == 2 and "embed" not in name:
            nn.init.normal_(weight, std=0.8 * weight.shape[1] ** -0.5)
        for ending, branches in deep.items():
            if name.endswith(ending):
                weight.mul_(branches**-0.5)
    model.model.language_model.embed_tokens.weight.normal_(std=0.5)
