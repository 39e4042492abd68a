"""LLaVA-1.5: a CLIP tower with a CLS token, one square grid per image, 1-D positions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from nuwa.models.base import Adapter, Recording, remove_hooks
from nuwa.pruners.base import Tap
from nuwa.pruning.budget import ModelShape
from nuwa.pruning.layout import Grid, ImageLayout
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

WITHOUT_PATCHES = ("cls_feature", "reader_query")
"""Taps that are about the CLS token alone."""


class ClipRecording(Recording):
    """Quantities of a CLIP tower with a CLS token of ``depth`` layers, features from layer ``feature_layer``."""

    def __init__(self, head_dim: int, depth: int, feature_layer: int) -> None:
        self.head_dim = head_dim
        self.depth, self.feature_layer = depth, feature_layer
        self.computed: dict[Tap, Tensor] = {}
        self.selected: Tensor | None = None
        self.captured: dict[tuple[int, str], Tensor] = {}
        self.hidden_sum: Tensor | None = None
        self.hidden_count = 0

    def layer_of(self, tap: Tap) -> int:
        """The layer a tap reads.

        Raises:
            ValueError: nothing reads the features, because they are the tower's last.
        """
        if tap.kind.startswith("reader"):
            if self.feature_layer + 1 >= self.depth:
                raise ValueError(f"{tap.kind}: no layer of this tower reads its features, they are its last output")
            return self.feature_layer + 1
        return self.feature_layer if tap.layer is None else max(round(tap.layer * self.depth) - 1, 0)

    def features(self, image: int, rows: Tensor) -> Tensor:
        return self.selected[image, rows.to(self.selected.device)]

    def view(self, tap: Tap, image: int, rows: Tensor) -> Tensor | None:
        if tap not in self.computed:
            self.computed[tap] = self.compute(tap)
        values, rows = self.computed[tap][image], rows.to(self.selected.device)
        if tap.kind in WITHOUT_PATCHES:
            return values
        if tap.kind == "reader_keys":
            return torch.cat([values[:1], values[1:][rows]])
        return values[:, rows] if tap.kind == "cls_attention" else values[rows]

    def compute(self, tap: Tap) -> Tensor:
        """The tapped quantity of every crop, all patches (shapes: `nuwa.pruners.base.Tap`)."""
        if tap.kind == "hidden_mean":
            return (self.hidden_sum / self.hidden_count).to(self.selected.dtype)
        if tap.kind not in NEEDS:
            raise ValueError(f"a CLIP tower has no tap {tap.kind!r}")
        read = [self.captured[self.layer_of(tap), name] for name in NEEDS[tap.kind]]
        if tap.kind.endswith("attention"):
            queries, keys = (split_heads(x, self.head_dim) for x in read)
            if tap.kind == "cls_attention":
                return softmax_rows(queries[:, :, :1], keys, self.head_dim**-0.5)[:, :, 0, 1:]
            return received_attention(queries, keys, self.head_dim**-0.5)[:, 1:]
        if tap.kind == "keys":
            return read[0][:, 1:]
        return read[0] if tap.kind == "reader_keys" else read[0][:, :1]

    def add_hidden(self, hidden: Tensor) -> None:
        """Add one layer's patches (I, N, D) to the running float32 mean."""
        patches = hidden[:, 1:].float()
        self.hidden_sum = patches if self.hidden_sum is None else self.hidden_sum + patches
        self.hidden_count += 1


class LlavaAdapter(Adapter):
    """`LlavaForConditionalGeneration` with a CLIP vision tower.

    Raises:
        ValueError: a vision tower or feature selection that has no single grid with a CLS token.
    """

    model_type = "llava"

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        config = model.config
        if config.vision_feature_select_strategy != "default" or not isinstance(config.vision_feature_layer, int):
            raise ValueError(
                "LLaVA models need one vision_feature_layer and vision_feature_select_strategy='default'; "
                f"this one has {config.vision_feature_layer} and {config.vision_feature_select_strategy!r}"
            )

    @property
    def shape(self) -> ModelShape:
        text, vision = self.model.config.text_config, self.model.config.vision_config
        head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        return ModelShape(
            layers=text.num_hidden_layers,
            hidden=text.hidden_size,
            intermediate=text.intermediate_size,
            kv_heads=text.num_key_value_heads,
            head_dim=head_dim,
            vision_hidden=vision.hidden_size,
            image_tokens=(vision.image_size // vision.patch_size) ** 2,
        )

    @property
    def grid(self) -> Grid:
        side = self.model.config.vision_config.image_size // self.model.config.vision_config.patch_size
        return side, side

    def layouts(self, images: Sequence[Tensor], arguments: Mapping[str, Any]) -> list[ImageLayout]:
        return [ImageLayout.single(self.grid) for _ in images]

    def encode_smaller(self, encode: Callable[..., Any], arguments: Mapping[str, Any], grid: Grid) -> Any:
        arguments = dict(arguments)
        pixels, extra = arguments.pop("pixel_values"), arguments.pop("kwargs", {})
        size = [side * self.model.config.vision_config.patch_size for side in grid]
        small = functional.interpolate(pixels.float(), size, mode="bicubic", antialias=True).to(pixels.dtype)
        output = encode(pixel_values=small, **arguments, **extra, interpolate_pos_encoding=True)
        whole = self.grid[0] * self.grid[1]
        output.pooler_output = [image.new_zeros(whole, image.shape[-1]) for image in output.pooler_output]
        return output

    def project(self, features: Tensor) -> Tensor:
        return self.multimodal.multi_modal_projector(features)

    @contextmanager
    def record(self, taps: Sequence[Tap], arguments: Mapping[str, Any]) -> Iterator[ClipRecording]:
        config = self.model.config
        layers = self.multimodal.vision_tower.encoder.layers
        depth, at = len(layers), config.vision_feature_layer
        head_dim = config.vision_config.hidden_size // config.vision_config.num_attention_heads
        recording = ClipRecording(head_dim, depth, depth + at if at < 0 else at - 1)
        handles = [self.multimodal.multi_modal_projector.register_forward_pre_hook(_capture_input(recording))]
        wanted = {(recording.layer_of(tap), name) for tap in taps for name in NEEDS.get(tap.kind, ())}
        for layer, name in sorted(wanted):
            module = layers[layer].get_submodule(READ[name])
            handles.append(module.register_forward_hook(_capture(recording, (layer, name))))
        for tap in taps:
            if tap.kind == "hidden_mean":
                # hidden_states[i] is the output of layer i - 1
                handles += [
                    layer.register_forward_hook(_accumulate(recording))
                    for layer in layers[max(round(tap.start * depth) - 1, 0) :]
                ]
        try:
            yield recording
        finally:
            remove_hooks(handles)


def _first(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    return output if torch.is_tensor(output) else output[0]


def _capture(recording: ClipRecording, name: tuple[int, str]):
    def hook(module: nn.Module, inputs: tuple, output: Any) -> None:
        recording.captured[name] = _first(output)

    return hook


def _capture_input(recording: ClipRecording):
    def hook(module: nn.Module, inputs: tuple) -> None:
        recording.selected = inputs[0]

    return hook


def _accumulate(recording: ClipRecording):
    def hook(module: nn.Module, inputs: tuple, output: Any) -> None:
        recording.add_hidden(_first(output))

    return hook
