"""What is read off a vision tower of CLIP's architecture, with a CLS token or (SigLIP) without.

Shape letters: C crops of all images, N patches of a crop, H heads, D width; V tokens of a view.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nuwa.models.base import Recording, first_of, remove_hooks
from nuwa.pruners.base import Tap
from nuwa.pruning.scores import received_attention, softmax_rows, split_heads

READ = {"queries": "self_attn.q_proj", "keys": "self_attn.k_proj", "output": ""}
"""What is captured of a layer, and the submodule whose output it is."""

NEEDS = {
    "cls_attention": ("queries", "keys"),
    "received_attention": ("queries", "keys"),
    "keys": ("keys",),
    "cls_feature": ("output",),
    "reader_query": ("queries",),
    "reader_keys": ("keys",),
}
"""What each kind of tap needs of its layer."""

OF_ONE_CROP = ("cls_feature", "reader_query", "reader_keys")
"""Taps that need the one CLS token of a view."""


class ClipRecording(Recording):
    """Quantities of a tower of ``depth`` layers, features from layer ``feature_layer``.

    ``crops`` says how many crops, with a CLS token each if ``cls``, the tower saw of every image.
    """

    def __init__(self, head_dim: int, depth: int, feature_layer: int, crops: Sequence[int], cls: bool = True) -> None:
        super().__init__(depth)
        self.head_dim, self.feature_layer = head_dim, feature_layer
        ends = torch.tensor(crops).cumsum(0).tolist()
        self.crops = [slice(end - count, end) for end, count in zip(ends, crops, strict=True)]
        self.cls = int(cls)
        self.captured: dict[tuple[int, str], Tensor] = {}

    def features(self, image: int, rows: Tensor) -> Tensor:
        return self._patches(self.selected, image, rows)

    def view(self, tap: Tap, image: int, rows: Tensor) -> Tensor | None:
        if not self.has(tap):
            return None
        if tap.kind in OF_ONE_CROP:
            return self._of_one_crop(tap, image, rows)
        values = self._patches(self.value(tap), image, rows)
        return values.T if tap.kind == "cls_attention" else values

    def repeat(self, owners: Sequence[int]) -> None:
        self.crops = [self.crops[owner] for owner in owners]

    def has(self, tap: Tap) -> bool:
        return bool(self.cls) or tap.kind not in OF_ONE_CROP

    def needs(self, tap: Tap) -> set[tuple[int, str]]:
        """What a tap needs captured: layers and names of `READ`."""
        if tap.kind not in NEEDS or not self.has(tap):
            return set()
        return {(self.layer_of(tap), name) for name in NEEDS[tap.kind]}

    def layer_of(self, tap: Tap) -> int:
        """The layer a tap reads."""
        if tap.kind.startswith("reader"):
            return min(self.feature_layer + 1, self.depth - 1)
        return tap.layer_in(self.depth, self.feature_layer)

    def _patches(self, values: Tensor, image: int, rows: Tensor) -> Tensor:
        """Rows (V,) of an image out of (C, N, ...): (V, ...)."""
        return values[self.crops[image]].flatten(0, 1)[rows.to(values.device)]

    def _of_one_crop(self, tap: Tap, image: int, rows: Tensor) -> Tensor | None:
        crop, rows = (part(rows, self.selected.shape[1]) for part in (torch.floor_divide, torch.remainder))
        if bool((crop != crop[0]).any()):
            return None
        values = self.value(tap)[self.crops[image]][int(crop[0])]
        return torch.cat([values[:1], values[1:][rows.to(values.device)]]) if tap.kind == "reader_keys" else values

    def _compute(self, tap: Tap) -> Tensor:
        """The tapped quantity of all crops, patches (C, N, ...) or CLS tokens first."""
        if tap.kind == "hidden_mean":
            return self.hidden_mean(tap)[:, self.cls :].to(self.selected.dtype)
        if tap.kind not in NEEDS:
            raise ValueError(f"a CLIP tower has no tap {tap.kind!r}")
        read = [self.captured[self.layer_of(tap), name] for name in NEEDS[tap.kind]]
        if tap.kind.endswith("attention"):
            queries, keys = (split_heads(x, self.head_dim) for x in read)
            if tap.kind == "cls_attention" and self.cls:
                return softmax_rows(queries[:, :, :1], keys, self.head_dim**-0.5)[:, :, 0, 1:].transpose(1, 2)
            received = received_attention(queries, keys, self.head_dim**-0.5)[..., self.cls :]
            return received.transpose(1, 2) if tap.kind == "cls_attention" else received.mean(1)
        if tap.kind == "keys":
            return read[0][:, self.cls :]
        return read[0] if tap.kind == "reader_keys" else read[0][:, :1]


@contextmanager
def record_clip(
    recording: ClipRecording, layers: Sequence[nn.Module], reader: nn.Module, taps: Sequence[Tap]
) -> Iterator[ClipRecording]:
    """Fill a recording from a tower's ``layers`` and from ``reader``, whose input are the features."""
    handles = [reader.register_forward_pre_hook(_capture_input(recording)), *recording.record_means(taps, layers)]
    for layer, name in sorted(set().union(*(recording.needs(tap) for tap in taps))):
        module = layers[layer].get_submodule(READ[name])
        handles.append(module.register_forward_hook(_capture(recording, (layer, name))))
    try:
        yield recording
    finally:
        remove_hooks(handles)


def _capture(recording: ClipRecording, name: tuple[int, str]):
    def hook(module: nn.Module, inputs: tuple, output: Any) -> None:
        recording.captured[name] = first_of(output)

    return hook


def _capture_input(recording: ClipRecording):
    def hook(module: nn.Module, inputs: tuple) -> None:
        recording.selected = inputs[0]

    return hook
