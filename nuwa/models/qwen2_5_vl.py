"""Qwen2.5-VL: a tower of windows without a CLS token, images of any size, positions with three axes (M-RoPE).

The tower works on patches in window order, four of a merge unit in a row; its merger makes one token of each unit, and
the model puts tokens back into raster order afterwards. Everything handed on here is by token, in raster order.

Shape letters: P patches of all images, N tokens of all images, H heads, d head width, D tower width, L LLM width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from nuwa.models.base import Adapter, Recording, remove_hooks
from nuwa.pruners.base import Tap, Tower
from nuwa.pruning.budget import ModelShape
from nuwa.pruning.layout import ImageLayout
from nuwa.pruning.scores import CHUNK, apply_rotary, softmax_rows
from nuwa.pruning.windows import window_order

WITHOUT_CLS = ("cls_feature", "reader_query", "reader_keys")
"""Taps that need a CLS token."""


def received_by_head(queries: Tensor, keys: Tensor, scale: float, chunk: int = CHUNK) -> Tensor:
    """Attention that each key receives, summed over queries: two (H, P, d) of one segment -> (H, P) float32.

    Queries go through in portions of ``chunk``, so that no P x P map exists.
    """
    total = queries.new_zeros(queries.shape[:2], dtype=torch.float32)
    for part in queries.split(chunk, dim=1):
        total += softmax_rows(part[None], keys[None], scale)[0].sum(1)
    return total


class QwenRecording(Recording):
    """Quantities of a tower, of images of ``grids`` (frames, rows, columns) tokens."""

    def __init__(self, visual: nn.Module, grids: Sequence[Sequence[int]]) -> None:
        super().__init__(len(visual.blocks))
        self.visual = visual
        self.unit = visual.spatial_merge_size**2
        self.order = window_order(grids, visual.window_size // visual.spatial_merge_size // visual.patch_size)
        self.sizes = [frames * rows * columns for frames, rows, columns in grids]
        self.starts = torch.tensor([0, *self.sizes]).cumsum(0).tolist()
        self.projections: dict[int, Tensor] = {}
        self.calls: dict[int, dict[str, Any]] = {}

    def features(self, image: int, rows: Tensor) -> Tensor:
        return self._tokens(self.selected, image, rows)

    def view(self, tap: Tap, image: int, rows: Tensor) -> Tensor | None:
        if not self.has(tap):
            return None
        values = self._tokens(self.value(tap), image, rows)
        return values.T if tap.kind == "cls_attention" else values

    def has(self, tap: Tap) -> bool:
        return tap.kind not in WITHOUT_CLS

    def repeat(self, owners: Sequence[int]) -> None:
        self.starts = [self.starts[owner] for owner in owners]

    def block_of(self, tap: Tap) -> int:
        """The block a tap reads: by default the last one whose attention spans whole images."""
        return tap.layer_in(self.depth, max(self.visual.fullatt_block_indexes), windows=True)

    def _tokens(self, values: Tensor, image: int, rows: Tensor) -> Tensor:
        """Rows of an image out of values by token in window order (N, ...)."""
        return values[self.order[self.starts[image] + rows.cpu()].to(values.device)]

    def _compute(self, tap: Tap) -> Tensor:
        """The tapped quantity of every token in window order: (N, H), (N,), (N, D) or (N, L)."""
        if tap.kind == "hidden_mean":
            return self.visual.merger(self.hidden_mean(tap).to(self.selected.dtype))
        block = self.block_of(tap)
        heads = self.visual.blocks[block].attn.num_heads
        queries, keys, _ = self.projections[block].unflatten(-1, (3, heads, -1)).unbind(1)
        if tap.kind == "keys":
            return self._by_token(keys.flatten(1))
        received = self._by_token(self._received(queries, keys, **self.calls[block]))
        return received if tap.kind == "cls_attention" else received.mean(1)

    def _by_token(self, values: Tensor) -> Tensor:
        """Mean over the patches of each merge unit: (P, ...) -> (N, ...)."""
        return values.unflatten(0, (-1, self.unit)).mean(1)

    def _received(self, queries: Tensor, keys: Tensor, rotary: tuple[Tensor, Tensor], ends: Tensor) -> Tensor:
        """Attention that each patch receives in every head, mean over the queries of its image: (P, H) float32.

        A window's patches are asked by its own queries only. Divided by the window's size their shares would grow as
        windows at the border shrink; divided by the image's, uniform attention gives every patch the same.
        """
        cos, sin = (part.float()[None] for part in rotary)
        queries, keys = (apply_rotary(x.float().transpose(0, 1)[None], cos, sin)[0] for x in (queries, keys))
        scale = queries.shape[-1] ** -0.5
        lengths = ends.diff().tolist()
        segments = zip(queries.split(lengths, 1), keys.split(lengths, 1), strict=True)
        received = torch.cat([received_by_head(*segment, scale) for segment in segments], 1)
        asking = torch.tensor(self.sizes).repeat_interleave(torch.tensor(self.sizes) * self.unit) * self.unit
        return (received / asking.to(received.device)).T


class Qwen2_5_VLAdapter(Adapter):
    """`Qwen2_5_VLForConditionalGeneration`, for images."""

    model_type = "qwen2_5_vl"
    axes = 3

    @property
    def shape(self) -> ModelShape:
        text = self.model.config.text_config
        return ModelShape(
            layers=text.num_hidden_layers,
            hidden=text.hidden_size,
            intermediate=text.intermediate_size,
            kv_heads=text.num_key_value_heads,
            head_dim=text.hidden_size // text.num_attention_heads,
            vision_hidden=self.model.config.vision_config.out_hidden_size,
        )

    @property
    def tower(self) -> Tower:
        vision = self.model.config.vision_config
        names = ("hidden_size", "depth", "patch_size", "spatial_merge_size")
        return Tower(vision.model_type, {name: getattr(vision, name) for name in names})

    @property
    def projector(self) -> nn.Module:
        return self.multimodal.visual.merger

    def grids(self, arguments: Mapping[str, Any]) -> list[tuple[int, int, int]]:
        """Frames, rows and columns of the tokens of each image."""
        merge = self.model.config.vision_config.spatial_merge_size
        return [(t, h // merge, w // merge) for t, h, w in arguments["image_grid_thw"].tolist()]

    def pixels(self, arguments: Mapping[str, Any]) -> Sequence[Tensor]:
        return arguments["pixel_values"].split(arguments["image_grid_thw"].prod(1).tolist())

    def layouts(self, images: Sequence[Tensor], arguments: Mapping[str, Any]) -> list[ImageLayout]:
        return [ImageLayout.single((frames * rows, columns)) for frames, rows, columns in self.grids(arguments)]

    def project(self, features: Tensor) -> Tensor:
        """The merger's output has the LLM's width already."""
        return features

    def sizes(self, arguments: Mapping[str, Any]) -> list[tuple[int, ...]]:
        return self.grids(arguments)

    def choose(self, arguments: Mapping[str, Any], images: Sequence[int]) -> dict[str, Any]:
        pixels = self.pixels(arguments)
        return {
            **arguments,
            "pixel_values": torch.cat([pixels[image] for image in images]),
            "image_grid_thw": arguments["image_grid_thw"][list(images)],
        }

    def new_recording(self, arguments: Mapping[str, Any]) -> QwenRecording:
        return QwenRecording(self.multimodal.visual, self.grids(arguments))

    @contextmanager
    def record(self, taps: Sequence[Tap], arguments: Mapping[str, Any]) -> Iterator[QwenRecording]:
        visual = self.multimodal.visual
        recording = self.new_recording(arguments)
        handles = [visual.merger.register_forward_hook(_capture_merged(recording))]
        handles += recording.record_means(taps, visual.blocks)
        read = {recording.block_of(tap) for tap in taps if recording.has(tap) and tap.kind != "hidden_mean"}
        for block in sorted(read):
            attention = visual.blocks[block].attn
            handles.append(attention.register_forward_pre_hook(_capture_call(recording, block), with_kwargs=True))
            handles.append(attention.qkv.register_forward_hook(_capture_projections(recording, block)))
        try:
            yield recording
        finally:
            remove_hooks(handles)


def _capture_merged(recording: QwenRecording):
    def hook(module: nn.Module, inputs: tuple, output: Tensor) -> None:
        if recording.selected is None:
            recording.selected = output

    return hook


def _capture_call(recording: QwenRecording, block: int):
    def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        recording.calls[block] = {"rotary": kwargs["position_embeddings"], "ends": kwargs["cu_seqlens"]}

    return hook


def _capture_projections(recording: QwenRecording, block: int):
    def hook(module: nn.Module, inputs: tuple, output: Tensor) -> None:
        recording.projections[block] = output

    return hook
