"""LLaVA-OneVision (single images): a SigLIP tower without CLS token, tiles as LLaVA-NeXT's. Experimental.

Received attention stands in for a CLS token's. Where the tiles of an image hold too many tokens (``anyres_max_9``), the
model interpolates their projected features on a coarser grid, so that a token has no patch of its own. Features are
therefore taken after the projector, and whatever is read off the tower is interpolated like them; no method was
published with that, which a warning says where it happens.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from nuwa.models.clip import ClipRecording, record_clip
from nuwa.models.llava_next import LlavaNextAdapter
from nuwa.pruners.base import Tap, Tower

UNLIMITED = "anyres_max_1000000"
"""A limit on tokens under which nothing is interpolated."""


class PackedRecording(ClipRecording):
    """Rows are placeholders: ``pack(values, image)`` puts (crops, N, D) in their order, (n_tokens, D)."""

    def __init__(self, pack: Callable[[Tensor, int], Tensor], *sizes: Any) -> None:
        super().__init__(*sizes, cls=False)
        self.pack = pack
        self.projected: Tensor | None = None

    def _features(self) -> dict[str, Tensor | None]:
        return {**super()._features(), "projected": self.projected}

    def repeat(self, owners: Sequence[int]) -> None:
        super().repeat(owners)
        pack = self.pack
        self.pack = lambda values, image: pack(values, owners[image])

    def features(self, image: int, rows: Tensor) -> Tensor:
        return self._patches(self.projected, image, rows)

    def _patches(self, values: Tensor, image: int, rows: Tensor) -> Tensor:
        mine = values[self.crops[image]]
        packed = self.pack(mine.flatten(2) if mine.dim() > 2 else mine[..., None], image)
        return packed[rows.to(values.device)].view(len(rows), *values.shape[2:])


class LlavaOnevisionAdapter(LlavaNextAdapter):
    """`LlavaOnevisionForConditionalGeneration` with a SigLIP vision tower, one image per prompt."""

    model_type = "llava_onevision"
    selection = "full"

    @property
    def tower(self) -> Tower:
        return replace(super().tower, cls=False)

    def crop_of(self, source: Tensor) -> None:
        """Rows are placeholders, and features may be interpolated from patches of several crops."""

    def crops(self, arguments: Mapping[str, Any]) -> list[int]:
        counts = arguments.get("batch_num_images")
        if counts is not None and any(int(count) > 1 for count in counts):
            raise ValueError("llava_onevision: several images in a prompt are not supported with pruning")
        return super().crops(arguments)

    def pack(self, values: Tensor, arguments: Mapping[str, Any], image: int, limit: str | None = None) -> Tensor:
        """Values (crops, N, D) of an image in prompt order: (n_tokens, D), -1 for newlines."""
        limit = limit or arguments.get("vision_aspect_ratio") or self.model.config.vision_aspect_ratio
        newline = values.new_full((values.shape[-1],), -1)
        size = arguments["image_sizes"][image]
        return self.multimodal.pack_image_features([values], [size], newline, limit)[0][0]

    def pack_rows(self, arguments: Mapping[str, Any], image: int, crops: int) -> Tensor:
        blank = torch.zeros(crops, self.square[0] * self.square[1], 1)
        packed = self.pack(blank, arguments, image)[:, 0]
        if len(packed) < len(self.pack(blank, arguments, image, UNLIMITED)):
            warnings.warn(
                "llava_onevision interpolates the tiles of large images: scores are interpolated like features, which "
                "is experimental",
                stacklevel=2,
            )
        return torch.arange(len(packed)).masked_fill(packed < 0, -1)

    def project(self, features: Tensor) -> Tensor:
        return features

    @contextmanager
    def record(self, taps: Sequence[Tap], arguments: Mapping[str, Any]) -> Iterator[PackedRecording]:
        recording = self.new_recording(arguments)
        tower, projector = self.multimodal.vision_tower, self.multimodal.multi_modal_projector
        handle = projector.register_forward_hook(lambda module, inputs, output: setattr(recording, "projected", output))
        try:
            with record_clip(recording, tower.encoder.layers, projector, taps):
                yield recording
        finally:
            handle.remove()

    def new_recording(self, arguments: Mapping[str, Any]) -> PackedRecording:
        def pack(values: Tensor, image: int) -> Tensor:
            return self.pack(values, arguments, image)

        return PackedRecording(pack, *self.tower_sizes, self.crops(arguments))
