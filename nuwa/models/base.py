"""The contract of a model family: where its tokens, layers and ids are. The only rooms that know transformers' names.

Shape letters: N tokens of a view, D vision width, H LLM width, C axes of the position ids.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nuwa.pruners.base import Tap, Tower
from nuwa.pruning.budget import ModelShape
from nuwa.pruning.layout import Grid, ImageLayout


class Recording(ABC):
    """What was read off one run of a vision tower of ``depth`` layers, by image; images may differ in size.

    ``rows`` (N,) are row numbers among an image's vision features (`ImageLayout.source`), in raster order of a view.
    ``selected`` are the features of all images as the tower returned them. Whatever is costly is computed once for all
    images and kept.
    """

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.selected: Tensor | None = None
        self.hidden_sum: dict[Tap, Tensor] = {}
        self.computed: dict[Tap, Tensor] = {}

    def record_means(self, taps: Sequence[Tap], layers: Sequence[nn.Module]) -> list[Any]:
        """Hooks on the tower's layers that add up, in float32, what ``hidden_mean`` averages."""
        return [
            layers[index].register_forward_hook(functools.partial(self._add_hidden, tap))
            for tap in dict.fromkeys(taps)
            if tap.kind == "hidden_mean"
            for index in tap.layers_in(self.depth)
        ]

    def hidden_mean(self, tap: Tap) -> Tensor:
        """Mean of the hidden states of a tap, float32, in the tower's shape and order."""
        return self.hidden_sum[tap] / len(tap.layers_in(self.depth))

    def _add_hidden(self, tap: Tap, module: nn.Module, inputs: tuple, output: Any) -> None:
        self.hidden_sum[tap] = first_of(output).float() + self.hidden_sum.get(tap, 0)

    def value(self, tap: Tap) -> Tensor:
        """The tapped quantity of all images, in the tower's shape and order."""
        if tap not in self.computed:
            self.computed[tap] = self._compute(tap)
        return self.computed[tap]

    def frozen(self, taps: Sequence[Tap]) -> dict[str, Tensor]:
        """All that can be asked of this recording, if nothing but ``taps`` is, as tensors by name."""
        return self._features() | {str(tap): self.value(tap) for tap in taps if self.has(tap)}

    def thaw(self, tensors: Mapping[str, Tensor], taps: Sequence[Tap]) -> None:
        """Fill an empty recording of the same images with what `frozen` gave."""
        for name in self._features():
            setattr(self, name, tensors[name])
        self.computed = {tap: tensors[str(tap)] for tap in taps if self.has(tap)}

    def _features(self) -> dict[str, Tensor | None]:
        return {"selected": self.selected}

    @abstractmethod
    def repeat(self, owners: Sequence[int]) -> None:
        """Show as image i what was read of image ``owners[i]``."""

    @abstractmethod
    def has(self, tap: Tap) -> bool:
        """Whether this tower has what a tap asks for."""

    @abstractmethod
    def _compute(self, tap: Tap) -> Tensor:
        """What `value` keeps."""

    @abstractmethod
    def features(self, image: int, rows: Tensor) -> Tensor:
        """(N, D) features at which tokens are kept or merged."""

    @abstractmethod
    def view(self, tap: Tap, image: int, rows: Tensor) -> Tensor | None:
        """The tapped quantity of some rows of an image: shapes as in `nuwa.pruners.base.Tap`, without the batch."""


class Adapter(ABC):
    """One supported model: a thin view on an unmodified transformers model."""

    model_type: ClassVar[str]
    axes: ClassVar[int] = 1

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    @property
    def multimodal(self) -> nn.Module:
        """The module that owns ``get_image_features`` and calls the language model."""
        return self.model.model

    @property
    def language_model(self) -> nn.Module:
        """The decoder without its head."""
        return self.multimodal.language_model

    @property
    def projector(self) -> nn.Module:
        """What maps the tower's features to the LLM's width."""
        return self.multimodal.multi_modal_projector

    @property
    def layers(self) -> Sequence[nn.Module]:
        """Decoder layers."""
        return self.language_model.layers

    @property
    def image_token_id(self) -> int:
        """The placeholder that stands for one visual token in the prompt."""
        return self.model.config.image_token_id

    def position_ids(self, incoming: Tensor | None, batch: int, length: int, device: torch.device) -> Tensor:
        """Position ids (C, B, L) that the unpruned model would use for a prompt.

        ``incoming``: None, (B, L), or (C, B, L) with the text's own ids before them or not (M-RoPE).
        """
        if incoming is None:
            incoming = torch.arange(length, device=device)[None]
        axes = incoming[-self.axes :] if incoming.dim() == 3 else incoming
        return axes.to(device).expand(self.axes, batch, length)

    def final_norm(self, hidden: Tensor) -> Tensor:
        """The norm between the last decoder layer and the head: (..., H) -> (..., H)."""
        return self.language_model.norm(hidden).to(hidden.device)

    @property
    def grid(self) -> Grid | None:
        """The token grid of every image, None if images differ."""
        return None

    def pixels(self, arguments: Mapping[str, Any]) -> Sequence[Tensor]:
        """The pixels of each image, whatever else its batch holds, from the arguments of ``get_image_features``."""
        return arguments["pixel_values"]

    def sizes(self, arguments: Mapping[str, Any]) -> list[tuple[int, ...]]:
        """What else than its pixels tells the features of each image, from the arguments of ``get_image_features``."""
        return [() for _ in self.pixels(arguments)]

    def choose(self, arguments: Mapping[str, Any], images: Sequence[int]) -> dict[str, Any]:
        """The arguments of ``get_image_features`` for some of its images only, in this order."""
        return {**arguments, "pixel_values": arguments["pixel_values"][list(images)]}

    @abstractmethod
    def new_recording(self, arguments: Mapping[str, Any]) -> Recording:
        """An empty recording of the images of ``arguments``."""

    def encode_smaller(self, encode: Callable[..., Any], arguments: Mapping[str, Any], grid: Grid) -> Any:
        """Call ``encode`` (``get_image_features``) on images shrunk to ``grid`` patches.

        ``pooler_output`` keeps the shape of the whole images, so that placeholders fit; its values mean nothing.
        """
        raise NotImplementedError(f"{self.model_type} models cannot encode smaller images here")

    @property
    @abstractmethod
    def shape(self) -> ModelShape:
        """Sizes for budgets and accounting."""

    @property
    @abstractmethod
    def tower(self) -> Tower:
        """What the vision tower is, read from the config alone."""

    @abstractmethod
    def layouts(self, images: Sequence[Tensor], arguments: Mapping[str, Any]) -> list[ImageLayout]:
        """Layout of each image, from its features (n_tokens, H) and the arguments of ``get_image_features``."""

    @abstractmethod
    def record(self, taps: Sequence[Tap], arguments: Mapping[str, Any]) -> AbstractContextManager[Recording]:
        """Read ``taps`` off the vision tower while the context is open, for ``arguments`` of ``get_image_features``."""

    @abstractmethod
    def project(self, features: Tensor) -> Tensor:
        """Map features (..., D) to the LLM's width."""


def first_of(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    """The hidden states in what a layer returns."""
    return output if torch.is_tensor(output) else output[0]


def remove_hooks(handles: Iterator[Any] | Sequence[Any]) -> None:
    """Remove every hook of a list of handles."""
    for handle in handles:
        handle.remove()
