"""Families that see a picture as tiles and then as a whole, and make one token of a block of patches (pixel shuffle).

InternVL, Idefics3 and SmolVLM. What a method reads off the tower is said of patches; of a token it is the mean over the
patches of its block. Features at which tokens are kept or merged are those of a block side by side, as the projector
reads them.

Shape letters: T tiles of all pictures, C tiles of the tower's call, P places of a tile (a CLS token, if there is one,
comes first), N tokens of a tile, U patches of a token, H heads, D tower width, L LLM width.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nuwa.models.base import FOUND, Family
from nuwa.models.crops import CropRecording
from nuwa.models.tiles import tile_count
from nuwa.models.towers import LayerRun
from nuwa.pruners.base import Tap
from nuwa.pruning.layout import Grid, ImageLayout, VisionView
from nuwa.pruning.scores import CHUNK, softmax_rows

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from nuwa.models.decoder import GenerativeModel


TEXT_MODELS = ("llama", "qwen2", "qwen3")
"""LLMs whose layers `Family.queries_keys` reads and whose FLOPs the budget's formula counts."""


def tile_layout(grid: Grid, side: int) -> ImageLayout:
    """The layout of a picture of ``grid`` tiles of ``side`` x ``side`` tokens: tiles stitched, and the whole picture.

    In the prompt tiles follow each other, and the whole picture is last; a picture of one tile is one plain grid.

    >>> layout = tile_layout((1, 2), side=2)
    >>> [view.tokens.tolist() for view in layout.views]
    [[0, 1, 4, 5, 2, 3, 6, 7], [8, 9, 10, 11]]
    """
    if grid == (1, 1):
        return ImageLayout.single((side, side))
    cells, index = side**2, torch.arange(tile_count(grid) * side**2)
    tiles = index[:-cells].view(*grid, side, side).transpose(1, 2).flatten()
    views = (VisionView((grid[0] * side, grid[1] * side), tiles, tiles=grid), VisionView((side, side), index[-cells:]))
    return ImageLayout(len(index), index, views, crop=index // cells)


def blocks(values: Tensor, factor: int) -> Tensor:
    """Values of the patches of square tiles (C, patches, ...) by token and place in its block: (C, N, U, ...).

    >>> blocks(torch.arange(16)[None], 2)[0, 1]
    tensor([2, 3, 6, 7])
    """
    side = round(values.shape[1] ** 0.5) // factor
    cut = values.unflatten(1, (side, factor, side, factor)).transpose(2, 3)
    return cut.flatten(3, 4).flatten(1, 2)


@dataclass(eq=False, repr=False)
class ShuffledRecording(CropRecording):
    """Quantities of a tower that makes a token of ``factor`` x ``factor`` patches."""

    factor: int

    def has(self, tap: Tap) -> bool:
        """As in `Recording`; the CLS token is no token for the LLM, which gets four patches in one."""
        return tap.kind != "cls_feature" and super().has(tap)

    def tokens(self, values: Tensor) -> Tensor:
        return blocks(super().tokens(values), self.factor).float().mean(2).to(values.dtype)

    def as_features(self, states: Tensor) -> Tensor:
        return blocks(super().tokens(states), self.factor).flatten(2).to(self.selected.dtype)

    def attention_chunks(self, run: LayerRun, image: int, chunk: int = CHUNK) -> Iterator[tuple[int, Tensor]]:
        """As in `Recording`: the mean over a token's patches, summed over those of the token looked at."""
        queries, keys, scale = self.heads(run)
        queries, keys = (x[self.crops[image]] for x in (queries, keys))
        places = blocks(torch.arange(self.cls, queries.shape[2], device=queries.device)[None], self.factor)[0]
        for first in range(0, len(places), chunk):
            asking = places[first : first + chunk]
            rows = softmax_rows(queries[:, :, asking.flatten()], keys, scale).mean(1)
            yield first, rows[:, :, places].sum(3).unflatten(1, asking.shape).mean(2)


class ShuffledFamily(Family):
    """What these families share.

    Raises:
        ValueError: another LLM than `TEXT_MODELS`.
    """

    def __init__(self, config: PreTrainedConfig, model: GenerativeModel | None = None) -> None:
        super().__init__(config, model)
        if (text := config.text_config.model_type) not in TEXT_MODELS:
            known = ", ".join(TEXT_MODELS)
            raise ValueError(f"{self.model_type} with the LLM {text} is not supported; supported: {known}")

    @property
    @abstractmethod
    def factor(self) -> int:
        """How many patches high and wide a token is."""

    @property
    @abstractmethod
    def square(self) -> Grid:
        """The patch grid of a tile."""

    @property
    def side(self) -> int:
        """How many tokens high and wide a tile is."""
        return self.square[0] // self.factor

    @property
    def vision_width(self) -> int:
        return self.config.vision_config.hidden_size * self.factor**2

    @property
    def feature_layer(self) -> int:
        """The layer of the vision tower whose output are the features."""
        return self.config.vision_config.num_hidden_layers - 1

    def grids(self, arguments: Mapping[str, Any]) -> list[Grid]:
        """How many tiles high and wide each picture is cut."""
        found = arguments.get(FOUND)
        return found if found is not None else self.find_grids(arguments)

    @abstractmethod
    def find_grids(self, arguments: Mapping[str, Any]) -> list[Grid]:
        """`grids`, read off the pixels."""

    def counts(self, arguments: Mapping[str, Any]) -> list[int]:
        """How many tiles each picture has, the whole one among them."""
        return [tile_count(grid) for grid in self.grids(arguments)]

    def prepare(self, arguments: dict[str, Any]) -> dict[str, Any]:
        return {**arguments, FOUND: self.grids(arguments)}

    def tiles(self, arguments: Mapping[str, Any]) -> Tensor:
        """The tiles (T, 3, S, S) of all pictures."""
        return arguments["pixel_values"]

    def pixels(self, arguments: Mapping[str, Any]) -> Sequence[Tensor]:
        return self.tiles(arguments).split(self.counts(arguments))

    def layouts(self, images: Sequence[Tensor], arguments: Mapping[str, Any]) -> list[ImageLayout]:
        return [tile_layout(grid, self.side) for grid in self.grids(arguments)]

    def select_images(self, arguments: Mapping[str, Any], images: Sequence[int]) -> dict[str, Any]:
        pixels, grids = self.pixels(arguments), self.grids(arguments)
        chosen = {"pixel_values": torch.cat([pixels[image] for image in images])}
        return {**arguments, **chosen, FOUND: [grids[image] for image in images]}

    def project(self, features: Tensor) -> Tensor:
        return self.projector(features)
