"""What Qwen's vision-language families share: packed towers without a CLS token, images of any size, M-RoPE.

A tower works on the patches of all images as one sequence, four of a merge unit in a row; its merger makes one token of
each unit. Everything handed on here is by token, in raster order.

Shape letters: P patches of all images, N tokens of all images, H heads, d head width, D tower width, L LLM width.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from nuwa.models.base import Family
from nuwa.models.checkpoint import ModelError
from nuwa.models.processors import (
    NativeProcessor,
    PictureOptions,
    PictureProcessor,
    Source,
    make_pil,
    text_processor,
)
from nuwa.models.random_configs import ROPE, Sizes, SpecialTokens
from nuwa.models.tiles import placeholder_runs
from nuwa.models.towers import LayerRun, Recording
from nuwa.models.video_processors import NativeVideos, TimedVideos
from nuwa.pruning.layout import ImageLayout
from nuwa.pruning.scores import CHUNK, Heads, received_attention, rotate, softmax_rows

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerFast


@dataclass(eq=False, repr=False)
class QwenRecording(Recording):
    """Quantities of a tower that makes one token of ``unit`` patches; the other arguments are those of `Recording`.

    ``sizes``: tokens of each image. ``order`` (N,): where the tower keeps each token, in raster order of the images.
    """

    unit: int
    sizes: Sequence[int]
    order: Tensor

    def __post_init__(self) -> None:
        super().__post_init__()
        self.starts = torch.tensor([0, *self.sizes]).cumsum(0).tolist()

    def _leave_reader(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._features.setdefault("selected", output)

    def project(self, run: LayerRun) -> Heads:
        attention, normed = run.layer.get_submodule("attn"), run.layer.get_submodule("norm1")(run.hidden[0])
        projected = attention.get_submodule("qkv")(normed).unflatten(-1, (3, attention.num_heads, -1))
        queries, keys, _ = (part.transpose(0, 1)[None] for part in projected.unbind(1))
        return Heads(queries, keys, queries.shape[-1] ** -0.5)

    def heads(self, run: LayerRun) -> Heads:
        queries, keys, scale = self.projections(run)
        cos, sin = (part.float().to(queries.device)[None] for part in run.kwargs["position_embeddings"])
        return Heads(rotate(queries.float(), cos, sin), rotate(keys.float(), cos, sin), scale)

    def received(self, run: LayerRun, heads: Heads) -> Tensor:
        """As in `Recording`.

        A window's patches are asked by its own queries only. Divided by the window's size their shares would grow as
        windows at the border shrink; divided by the image's, uniform attention gives every patch the same.
        """
        lengths = run.kwargs["cu_seqlens"].diff().tolist()
        segments = zip(heads.queries.split(lengths, 2), heads.keys.split(lengths, 2), strict=True)
        received = torch.cat([received_attention(*segment, heads.scale) for segment in segments], 2)
        asking = torch.tensor(self.sizes).repeat_interleave(torch.tensor(self.sizes) * self.unit) * self.unit
        return received / asking.to(received.device)

    def tokens(self, values: Tensor) -> Tensor:
        """Mean over the patches of each merge unit: (1, P, ...) -> (N, ...)."""
        return values[0].unflatten(0, (-1, self.unit)).mean(1)

    def as_features(self, states: Tensor) -> Tensor:
        return self.reader(states[0].to(self.selected.dtype))

    def rows(self, values: Tensor, image: int, rows: Tensor) -> Tensor:
        return values[self.order[self.starts[image] + rows.cpu()].to(values.device)]

    def expand_to(self, owners: Sequence[int]) -> None:
        self.starts = [self.starts[owner] for owner in owners]

    def attention_chunks(self, run: LayerRun, image: int, chunk: int = CHUNK) -> Iterator[tuple[int, Tensor]]:
        """As in `Recording`: the mean over a token's patches, summed over those of the token looked at."""
        start, device, unit = self.starts[image], run.hidden.device, self.unit
        order = self.order[start : start + self.sizes[image]].to(device)
        patches = (order[:, None] * unit + torch.arange(unit, device=device)).flatten()
        queries, keys, scale = self.heads(run)
        window = torch.searchsorted(run.kwargs["cu_seqlens"].to(patches.dtype), patches, right=True)
        for first in range(0, len(order), chunk):
            asking = slice(first * unit, (first + chunk) * unit)
            together = window[asking, None] == window
            rows = softmax_rows(queries[:, :, patches[asking]], keys[:, :, patches], scale, together).mean(1)
            yield first, rows.unflatten(2, (-1, unit)).sum(3).unflatten(1, (-1, unit)).mean(2)


class QwenVL(Family):
    """A Qwen that sees: its towers' layers see whole images, unless a family says otherwise."""

    axes = 3
    placeholder = "<|image_pad|>"
    video_placeholder: ClassVar[str] = "<|video_pad|>"
    projector_at, tower_layers_at = "visual.merger", "visual.blocks"
    tower_sizes = ("hidden_size", "depth", "patch_size", "spatial_merge_size")
    special = SpecialTokens.chat("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    half = torch.bfloat16
    videos: ClassVar[type[NativeVideos]] = NativeVideos
    video_options: ClassVar[tuple[str, ...]] = ("video_min_pixels", "video_max_pixels", "text_after_video")

    @classmethod
    def random_parts(cls, tokenizer: PreTrainedTokenizerFast, sizes: Sizes) -> dict[str, Any]:
        """What a config says besides the tower."""
        half = sizes.hidden_size // sizes.heads // 2
        if half % 8:
            raise ModelError(f"model.hidden_size={sizes.hidden_size} must be a multiple of 16 times model.heads")
        names = {"image": "image_pad", "video": "video_pad", "vision_start": "vision_start", "vision_end": "vision_end"}
        ids = {f"{name}_token_id": tokenizer.get_vocab()[f"<|{token}|>"] for name, token in names.items()}
        return {"text_config": sizes.text(tokenizer) | {"rope_parameters": cls.rope(half)}, **ids}

    @classmethod
    def rope(cls, half: int) -> dict[str, Any]:
        """Rotary embeddings of ``half`` pairs of channels: the first turn by time, then by row, the last by column."""
        return ROPE | {"mrope_section": [half // 4, 3 * half // 8, 3 * half // 8]}

    @classmethod
    def pictures(cls, config: PreTrainedConfig, source: Source, options: PictureOptions) -> NativeProcessor:
        from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessorPil

        options.require_only(cls.model_type, "min_pixels", "max_pixels", "jpeg_quality", *cls.video_options)
        if options.jpeg_quality is not None and not 1 <= options.jpeg_quality <= 100:
            raise ModelError(f"model.jpeg_quality={options.jpeg_quality} must be in 1 to 100")
        vision = config.vision_config
        settings = {name: getattr(vision, name) for name in ("patch_size", "temporal_patch_size")}
        pil = make_pil(Qwen2VLImageProcessorPil, source, settings | {"merge_size": vision.spatial_merge_size})
        limits = {"shortest_edge": options.min_pixels, "longest_edge": options.max_pixels}
        pil.size = {**dict(pil.size), **{edge: pixels for edge, pixels in limits.items() if pixels is not None}}
        least, most = pil.size["shortest_edge"], pil.size["longest_edge"]
        if not 0 < least <= most:
            raise ModelError(f"model.min_pixels={least} must be positive and at most model.max_pixels={most}")
        return NativeProcessor(pil, text_processor(Qwen2_5_VLProcessor, pil, cls.placeholder), options.jpeg_quality)

    @classmethod
    def video_processor(
        cls, config: PreTrainedConfig, pictures: PictureProcessor, options: PictureOptions
    ) -> NativeVideos:
        token = (pictures.pil.patch_size * pictures.pil.merge_size) ** 2
        least, most = options.video_min_pixels or 128 * token, options.video_max_pixels or 768 * token
        if not 0 < least <= most:
            raise ModelError(
                f"model.video_min_pixels={least} must be positive and at most model.video_max_pixels={most}"
            )
        return cls.videos(pictures, cls.video_placeholder, (least, most))

    @property
    def vision_width(self) -> int:
        return self.config.vision_config.out_hidden_size

    @property
    def grids_at(self) -> str:
        """The argument that holds frames, rows and columns of the patches of each image."""
        return f"{self.kind}_grid_thw"

    def grids(self, arguments: Mapping[str, Any]) -> list[tuple[int, int, int]]:
        """Frames, rows and columns of the tokens of each image."""
        merge = self.config.vision_config.spatial_merge_size
        return [(t, h // merge, w // merge) for t, h, w in arguments[self.grids_at].tolist()]

    def layouts(self, images: Sequence[Tensor], arguments: Mapping[str, Any]) -> list[ImageLayout]:
        return [ImageLayout.single((rows, columns), frames) for frames, rows, columns in self.grids(arguments)]

    def pixels(self, arguments: Mapping[str, Any]) -> Sequence[Tensor]:
        return arguments[self.pixels_at].split(arguments[self.grids_at].prod(1).tolist())

    sizes = grids

    def select_images(self, arguments: Mapping[str, Any], images: Sequence[int]) -> dict[str, Any]:
        pixels, grids = self.pixels(arguments), arguments[self.grids_at][list(images)]
        return {**arguments, self.pixels_at: torch.cat([pixels[image] for image in images]), self.grids_at: grids}

    def project(self, features: Tensor) -> Tensor:
        """The merger's output has the LLM's width already."""
        return features

    def ids_behind_videos(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Position ids (3, B, L) of a batch as the original implementation numbers tokens: see `ids_behind`."""
        multimodal: Any = self.multimodal
        kinds = batch["mm_token_type_ids"]
        known = inspect.signature(multimodal.get_rope_index).parameters
        ids, _ = multimodal.get_rope_index(**{name: x for name, x in batch.items() if name in known})
        return ids_behind(ids, kinds > 0)

    @property
    def unit(self) -> int:
        """Patches of a token."""
        return self.config.vision_config.spatial_merge_size**2

    def new_recording(self, arguments: Mapping[str, Any]) -> QwenRecording:
        sizes = list(map(math.prod, self.grids(arguments)))
        last, order = len(self.tower_layers) - 1, torch.arange(sum(sizes))
        return QwenRecording(self.tower_layers, self.projector, last, self.unit, sizes, order)


def ids_behind(ids: Tensor, visual: Tensor) -> Tensor:
    """Position ids (3, B, L) in which what follows a run of ``visual`` (B, L) bool tokens begins behind its largest id.

    transformers has it begin behind the run's larger side, whatever time the run spans (5.19 to 5.24).

    >>> video = torch.tensor([[0, 1, 5, 2, 3]]).expand(3, 1, 5)
    >>> ids_behind(video, torch.tensor([[False, True, True, False, False]]))[0].tolist()
    [[0, 1, 5, 6, 7]]
    """
    ids = ids.clone()
    for row, start, end in zip(*(part.tolist() for part in placeholder_runs(visual)), strict=True):
        if end < ids.shape[2]:
            ids[:, row, end:] += ids[:, row, start:end].amax() + 1 - ids[0, row, end]
    return ids


def vision_sizes(sizes: Sizes) -> dict[str, int]:
    """Settings of a random model's tower, as most families of Qwen name them."""
    return {
        "depth": sizes.vision_layers,
        "hidden_size": sizes.vision_hidden_size,
        "intermediate_size": sizes.vision["intermediate_size"],
        "num_heads": sizes.vision_heads,
        "out_hidden_size": sizes.hidden_size,
    }


class InterleavedQwenVL(QwenVL):
    """From Qwen3-VL on: patches of 16 pixels, normalised by halves; M-RoPE whose axes take turns.

    A video is a run of placeholders for every two frames, with a text in front that says when: it stays, as all text.
    """

    videos = TimedVideos
    video_options = ("video_min_pixels", "video_max_pixels")

    @classmethod
    def random_parts(cls, tokenizer: PreTrainedTokenizerFast, sizes: Sizes) -> dict[str, Any]:
        parts = super().random_parts(tokenizer, sizes)
        parts["text_config"]["head_dim"] = sizes.hidden_size // sizes.heads
        return parts | {"vision_config": vision_sizes(sizes)}

    @classmethod
    def rope(cls, half: int) -> dict[str, Any]:
        """Interleaved: every third pair of channels turns by the row, every third by the column, the rest by time."""
        side = 5 * half // 16
        return super().rope(half) | {"mrope_section": [half - 2 * side, side, side], "mrope_interleaved": True}

    @classmethod
    def pictures(cls, config: PreTrainedConfig, source: Source, options: PictureOptions) -> NativeProcessor:
        halves = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
        return super().pictures(config, source or halves, options)
