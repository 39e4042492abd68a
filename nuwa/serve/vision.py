"""The vision side of a served model: the tower and projector as transformers runs them, and the pruner behind them.

It is what a session does before the LLM, by the same functions (`nuwa.engine.tower`, `nuwa.engine.vision`): the tower
is not the engine's own, so that every method sees what it sees everywhere else.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from PIL import Image
from torch import Tensor

from nuwa.engine.about import content_ids
from nuwa.engine.call import Rules
from nuwa.engine.tower import run_tower
from nuwa.engine.vision import plan_images
from nuwa.models import family_class
from nuwa.models.base import Family
from nuwa.models.processors import NativeProcessor, PictureOptions
from nuwa.pruning.layout import Grid
from nuwa.serve.positions import ids_taken, kept_ids
from nuwa.serve.settings import Served, check_served, kept_count

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from nuwa.models.decoder import GenerativeModel

COUNT, TAKEN = "nuwa_count", "nuwa_taken"
"""Inputs beside the pixels: how many tokens of a picture stay, and how many ids it takes up."""


class Pictures:
    """Pictures as inputs of a served model, as the project prepares them; needs no weights.

    Args:
        config: the model's.
        folder: the checkpoint's, with the preprocessor's config.

    Raises:
        ValueError: what `check_served` refuses.
    """

    def __init__(self, config: PreTrainedConfig, served: Served, folder: Path) -> None:
        self.family = family_class(config.model_type)(config)
        check_served(served, self.family)
        self.pruner = served.method()
        self.processor = self.family.pictures(config, folder, PictureOptions(**served.pictures or {}))

    @property
    def largest(self) -> tuple[int, int]:
        """Width and height of a picture of as many tokens as one can have."""
        if self.family.grid is not None:
            return (self.family.config.vision_config.image_size,) * 2
        side = math.isqrt(self.processor.pil.size["longest_edge"]) // self._unit * self._unit
        return side, side

    def grid(self, image: Image.Image) -> Grid:
        """The tokens of a picture before any leave, by its size.

        Raises:
            nuwa.samples.SampleError: a picture has no pixels, or an impossible shape.
        """
        self.processor.check(image)
        if self.family.grid is not None:
            return self.family.grid
        wide, high = cast(NativeProcessor, self.processor).resized(image)
        return high // self._unit, wide // self._unit

    @property
    def _unit(self) -> int:
        """Side of a token in pixels, where pictures keep their shape."""
        return self.processor.pil.patch_size * self.processor.pil.merge_size

    def encode(self, images: Sequence[Image.Image]) -> dict[str, Tensor]:
        """Inputs of ``get_image_features`` for M pictures, with `COUNT` and `TAKEN`, (M,) each.

        Raises:
            nuwa.samples.SampleError: a picture has no pixels, or an impossible shape.
            nuwa.pruning.budget.BudgetError: the method cannot reach its budget on a picture of this size.
        """
        for image in images:
            self.processor.check(image)
        inputs, axes, shape = self.processor.encode(images), self.family.axes, self.family.shape
        layouts = self.family.layouts([torch.empty(0)] * len(images), inputs)
        grids = [layout.views[0].grid for layout in layouts]
        counts = [kept_count(self.pruner, grid, shape) for grid in grids]
        taken = [ids_taken(grid, axes) for grid in grids]
        return {**inputs, COUNT: torch.tensor(counts), TAKEN: torch.tensor(taken)}


def tower_alone(config: PreTrainedConfig, attention: str, dtype: torch.dtype) -> GenerativeModel:
    """A model of transformers without its LLM and head; its weights are random."""
    from transformers import AutoModelForImageTextToText

    slim, text = copy.deepcopy(config), config.text_config
    sizes = {"hidden_size": text.hidden_size, "intermediate_size": 1, "vocab_size": 1}
    heads = dict.fromkeys(("num_hidden_layers", "num_attention_heads", "num_key_value_heads"), 1)
    unnamed = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    slim.text_config = type(text)(**sizes, **heads, **unnamed)
    model = AutoModelForImageTextToText.from_config(slim, attn_implementation=attention, dtype=dtype)
    del model.lm_head, model.model.language_model
    return model.eval()


def in_groups(sizes: Sequence[int], most: int) -> list[list[int]]:
    """Numbers of things that follow each other, whose sizes add up to at most ``most``; a larger one is alone.

    >>> in_groups([3, 4, 9, 1, 1], most=7)
    [[0, 1], [2], [3, 4]]
    """
    groups: list[list[int]] = []
    room = 0
    for number, size in enumerate(sizes):
        if size > room or not groups:
            groups.append([])
            room = most
        groups[-1].append(number)
        room -= size
    return groups


class Vision:
    """Encodes and prunes pictures with the tower and projector of ``model``, which has no LLM (`tower_alone`).

    At once it takes as many pictures as have ``most`` tokens, before any leave: an engine counts those that stay.
    """

    def __init__(self, config: PreTrainedConfig, served: Served, model: GenerativeModel, most: int) -> None:
        self.family: Family = family_class(config.model_type)(config, model)
        strategy, self.most = served.strategy(self.family.axes), most
        self.rules = Rules(self.family, self.family.kinds, served.method(), strategy)

    def encode(self, inputs: Mapping[str, Any]) -> list[tuple[Tensor, Tensor]]:
        """Of each picture, the features that enter the LLM and their ids (2, K), from where it begins.

        Features are (K, H), and (K, (1 + P) H) where the family has P further planes of them. ``inputs`` are the
        arguments of ``get_image_features``.
        """
        unseen = [torch.empty(0)] * len(self.family.pixels(inputs))
        sizes = [layout.n_tokens for layout in self.family.layouts(unseen, inputs)]
        groups = in_groups(sizes, self.most)
        return [kept for group in groups for kept in self._encode(self.family.select_images(inputs, group))]

    @torch.no_grad()
    def _encode(self, inputs: Mapping[str, Any]) -> list[tuple[Tensor, Tensor]]:
        family = self.family
        arguments = family.prepare(dict(inputs))
        seen = run_tower(self.rules, family, family.encode_images, arguments)
        plans = plan_images(self.rules, family, seen, content_ids(family.pixels(arguments)))
        kept = [slice(None) if plan.keep is None else plan.keep.to(seen.images[0].device) for plan in plans]
        ids = [kept_ids(plan, self.rules.strategy, family.axes) for plan in plans]
        planes = zip(seen.images, *seen.planes, strict=True)
        features = [torch.cat([plane[stay] for plane in mine], 1) for mine, stay in zip(planes, kept, strict=True)]
        return list(zip(features, ids, strict=True))
