"""Reads the layers of a vision tower while it runs: states and attention between the patches of an image.

CLIP and SigLIP (LLaVA, LLaVA-NeXT, OneVision) see every crop as a sequence of its own, with a CLS token or without.
Qwen2.5-VL's tower works on patches in window order; here every state and row is of a token (the mean over the patches
of its merge unit, attention summed over those looked at) in raster order.

Shape letters: S sequences of an image, Q queries, N patches (tokens) of a sequence, H heads, D width, d head width.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nuwa.models.base import Adapter, remove_hooks
from nuwa.models.qwen2_5_vl import QwenRecording
from nuwa.pruners.base import Tap
from nuwa.pruning.scores import CHUNK, apply_rotary, softmax_rows, split_heads

STATES = Tap("hidden_mean")
"""The name under which a recording holds the states of one layer."""


@dataclass
class TowerCall(ABC):
    """Layer ``index`` of a tower after it ran: what entered it, what left it, and the layer's own arguments."""

    index: int
    layer: nn.Module
    hidden: Tensor
    output: Tensor
    kwargs: dict[str, Any]
    recording: Any

    def states(self, image: int, rows: Tensor) -> Tensor:
        """What left the layer for some rows (N,) of an image, as `ImageLayout.source` counts them: (N, D)."""
        self.recording.computed[STATES] = self.by_row()
        return self.recording.view(STATES, image, rows)

    @abstractmethod
    def by_row(self) -> Tensor:
        """The states that left the layer as the family's recording keeps them."""

    @abstractmethod
    def portions(self, image: int, chunk: int = CHUNK) -> Iterator[tuple[int, Tensor]]:
        """The first query of each portion, and its attention rows, head mean, (S, Q, N), CLS left out."""


class ClipCall(TowerCall):
    """A layer of CLIP or SigLIP."""

    def by_row(self) -> Tensor:
        return self.output[:, self.recording.cls :]

    def portions(self, image: int, chunk: int = CHUNK) -> Iterator[tuple[int, Tensor]]:
        attention, cls = self.layer.self_attn, self.recording.cls
        normed = self.layer.layer_norm1(self.hidden[self.recording.crops[image]])
        queries, keys = (split_heads(part(normed), attention.head_dim) for part in (attention.q_proj, attention.k_proj))
        for first in range(0, queries.shape[2] - cls, chunk):
            part = queries[:, :, cls + first : cls + first + chunk]
            yield first, softmax_rows(part, keys, attention.scale)[..., cls:].mean(1)


class QwenCall(TowerCall):
    """A block of Qwen2.5-VL's tower."""

    def by_row(self) -> Tensor:
        return self.output.unflatten(0, (-1, self.recording.unit)).mean(1)

    def portions(self, image: int, chunk: int = CHUNK) -> Iterator[tuple[int, Tensor]]:
        attention, unit = self.layer.attn, self.recording.unit
        start, device = self.recording.starts[image], self.hidden.device
        order = self.recording.order[start : start + self.recording.sizes[image]].to(device)
        patches = (order[:, None] * unit + torch.arange(unit, device=device)).flatten()
        normed = self.layer.norm1(self.hidden[patches])
        queries, keys, _ = attention.qkv(normed).unflatten(-1, (3, attention.num_heads, -1)).unbind(1)
        cos, sin = (part[patches].float()[None] for part in self.kwargs["position_embeddings"])
        queries, keys = (apply_rotary(x.float().transpose(0, 1)[None], cos, sin) for x in (queries, keys))
        window = torch.searchsorted(self.kwargs["cu_seqlens"].to(patches.dtype), patches, right=True)
        for first in range(0, len(order), chunk):
            asking = slice(first * unit, (first + chunk) * unit)
            together = window[asking, None] == window
            rows = softmax_rows(queries[:, :, asking], keys, attention.scaling, together).mean(1)
            yield first, rows.unflatten(2, (-1, unit)).sum(3).unflatten(1, (-1, unit)).mean(2)


def tower_layers(adapter: Adapter) -> nn.ModuleList:
    """The layers of a model's vision tower."""
    owner = adapter.multimodal
    return owner.visual.blocks if hasattr(owner, "visual") else owner.vision_tower.encoder.layers


@contextmanager
def watch_tower(adapter: Adapter, inputs: Mapping[str, Any], watch: Callable[[TowerCall], None]) -> Iterator[None]:
    """Call ``watch`` after each layer of the vision tower whenever it runs on the images of ``inputs``."""
    if hasattr(adapter.multimodal, "visual"):
        kind, recording = QwenCall, QwenRecording(adapter.multimodal.visual, adapter.grids(inputs))
    else:
        kind, recording = ClipCall, adapter.new_recording(inputs)

    def leave(index: int, module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        watch(kind(index, module, args[0], output if torch.is_tensor(output) else output[0], kwargs, recording))

    handles = [
        layer.register_forward_hook(functools.partial(leave, index), with_kwargs=True)
        for index, layer in enumerate(tower_layers(adapter))
    ]
    try:
        yield
    finally:
        remove_hooks(handles)
