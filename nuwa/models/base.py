"""The contract of a model family: how its pictures become tokens. The only folder that knows transformers' names.

A family is one file, named as its ``model_type``. It imports transformers inside functions only, because that takes
seconds, and `nuwa.models.axes_of` reads families without a model.

Shape letters: B prompts, L length, N tokens of an image, D tower width, H LLM width.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn

from nuwa.models.decoder import Decoder, text_shape
from nuwa.models.towers import Recording
from nuwa.pruners.base import Tap, Tower
from nuwa.pruning.flops import ModelShape
from nuwa.pruning.layout import Grid, ImageLayout

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerFast

    from nuwa.models.decoder import GenerativeModel
    from nuwa.models.processors import PictureOptions, PictureProcessor, Source
    from nuwa.models.random_configs import Sizes, SpecialTokens
    from nuwa.models.video_processors import VideoProcessor

DEEPSTACK = ("merged", "kept")
"""What tokens that a method made of several add of the deepstack planes: the same merged, or the kept row's own."""
FOUND = "found"
"""What `Family.prepare` adds to the arguments of a call."""


class Family(Decoder):
    """One family of models: its vision tower, the places of its visual tokens in a prompt, and its `Decoder`.

    A checkpoint's config is enough for what stands above `encode_images`; the rest needs a model.

    ``architecture`` is the name of its class in transformers, ``placeholder`` the token that stands for one visual
    token of a picture in a prompt, ``video_placeholder`` that of a video, None where the family reads no videos.
    ``kind`` is what the methods about "images" are about, pictures or videos: `kinds` has both, and a video is an image
    of several frames. ``projector_at`` and ``tower_layers_at`` are where `multimodal` has them, ``tower_sizes`` the
    sizes by which the tower's config tells it from others. ``special`` are the tokens of its tokenizer, ``half`` the
    half precision of its checkpoints. ``planes_at``: the entry of the output of ``get_image_features`` that holds
    further planes of features, each of all images (deepstack).

    Raises:
        ValueError: a config that the family does not support.
    """

    architecture: ClassVar[str]
    placeholder: ClassVar[str] = "<image>"
    video_placeholder: ClassVar[str | None] = None
    kind: str = "image"
    projector_at: ClassVar[str]
    tower_layers_at: ClassVar[str]
    tower_sizes: ClassVar[tuple[str, ...]] = ("hidden_size", "num_hidden_layers", "patch_size", "image_size")
    special: ClassVar[SpecialTokens]
    half: ClassVar[torch.dtype] = torch.float16
    planes_at: ClassVar[str | None] = None

    @classmethod
    @abstractmethod
    def random_config(cls, tokenizer: PreTrainedTokenizerFast, sizes: Sizes) -> PreTrainedConfig:
        """The config of a model of any size that has the real architecture.

        Raises:
            nuwa.models.checkpoint.ModelError: the sizes do not fit the architecture.
        """

    @classmethod
    @abstractmethod
    def pictures(cls, config: PreTrainedConfig, source: Source, options: PictureOptions) -> PictureProcessor:
        """What turns pictures into the inputs of a model, and into the text that stands for them in its prompt.

        Raises:
            nuwa.models.checkpoint.ModelError: options that the family does not have, or that are impossible.
        """

    @classmethod
    def adapt(cls, model: GenerativeModel, options: PictureOptions) -> None:
        """Let a loaded model do what options ask of it beyond its config; few have to."""

    @classmethod
    def video_processor(
        cls, config: PreTrainedConfig, pictures: PictureProcessor, options: PictureOptions
    ) -> VideoProcessor | None:
        """What turns videos into the inputs of a model, beside what does so with ``pictures``; None: it takes none.

        Raises:
            nuwa.models.checkpoint.ModelError: impossible options.
        """
        return None

    @property
    def tower(self) -> Tower:
        """What the vision tower is."""
        vision = self.config.vision_config
        return Tower(vision.model_type, {name: getattr(vision, name) for name in self.tower_sizes})

    @property
    @abstractmethod
    def vision_width(self) -> int:
        """Width D of the features at which tokens are kept or merged."""

    @property
    def planes(self) -> int:
        """How many planes of features a visual token has besides its own (deepstack)."""
        return 0

    def check_deepstack(self, choice: str) -> None:
        """Refuse what is asked of deepstack planes where tokens merge: ``merged`` with them, or the ``kept`` rows' own.

        Raises:
            ValueError: there is no such choice, or the family has no planes.
        """
        if choice not in DEEPSTACK:
            raise ValueError(f"position.deepstack={choice}: expected one of {', '.join(DEEPSTACK)}")
        if choice != DEEPSTACK[0] and self.planes_at is None:
            raise ValueError(f"position.deepstack={choice}: {self.model_type} models have no deepstack planes")

    @property
    def grid(self) -> Grid | None:
        """The token grid of every image, None if images differ."""
        return None

    @property
    def shape(self) -> ModelShape:
        """Sizes for budgets and accounting."""
        tokens = None if self.grid is None else self.grid[0] * self.grid[1]
        return text_shape(self.config.text_config, self.vision_width, tokens)

    @property
    def kinds(self) -> Mapping[str, Family]:
        """The family as it reads each kind of visual: ``image``, and ``video`` where it reads videos."""
        return {"image": self} if self.video_placeholder is None else {"image": self, "video": self.for_videos()}

    def for_videos(self) -> Family:
        """The family as it reads videos: by default as it reads pictures, under other names."""
        twin = copy.copy(self)
        twin.kind = "video"
        return twin

    @property
    def placeholder_id(self) -> int:
        """The id of the placeholder."""
        return getattr(self.config, f"{self.kind}_token_id")

    @property
    def pixels_at(self) -> str:
        """The argument that holds pixels."""
        return {"image": "pixel_values", "video": "pixel_values_videos"}[self.kind]

    @property
    def encoder(self) -> str:
        """The method of `multimodal` that makes features of pixels."""
        return f"get_{self.kind}_features"

    # The images of a call. ``arguments`` are those of `encoder`, by name.

    def prepare(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """The arguments, with what costs something to find out about the images among them, under `FOUND`."""
        return arguments

    def split(self, features: Any, arguments: Mapping[str, Any]) -> list[Tensor]:
        """The features (N, H) of each image, from what ``get_image_features`` gives as ``pooler_output``."""
        return list(features)

    def join(self, images: Sequence[Tensor], features: Any) -> Any:
        """The features of all images in the form of ``features``, a ``pooler_output``."""
        return torch.stack(list(images)) if torch.is_tensor(features) else list(images)

    @abstractmethod
    def layouts(self, images: Sequence[Tensor], arguments: Mapping[str, Any]) -> list[ImageLayout]:
        """Layout of each image, from its features (N, H)."""

    def pixels(self, arguments: Mapping[str, Any]) -> Sequence[Tensor]:
        """The pixels of each image, without the padding of its batch."""
        return arguments[self.pixels_at]

    def sizes(self, arguments: Mapping[str, Any]) -> Sequence[tuple[int, ...]]:
        """What the features of each image depend on besides its pixels."""
        return [() for _ in self.pixels(arguments)]

    def select_images(self, arguments: Mapping[str, Any], images: Sequence[int]) -> dict[str, Any]:
        """The arguments for some of the images only, in this order."""
        return {**arguments, self.pixels_at: arguments[self.pixels_at][list(images)]}

    def check_prompt(self, input_ids: Tensor, sizes: Sequence[int]) -> None:
        """Refuse prompts (B, L) whose placeholders cannot stand for images of ``sizes`` tokens.

        Raises:
            ValueError: they cannot; the message says what to do.
        """

    # Attached to a model.

    @property
    def encode_images(self) -> Callable[..., Any]:
        """The `encoder` of the model, or what stands in its place."""
        return cast(Callable[..., Any], getattr(self.multimodal, self.encoder))

    @property
    def projector(self) -> nn.Module:
        """What maps the tower's features to the LLM's width."""
        return self.multimodal.get_submodule(self.projector_at)

    @property
    def tower_layers(self) -> Sequence[nn.Module]:
        """The layers of the vision tower."""
        return list(self.multimodal.get_submodule(self.tower_layers_at).children())

    @abstractmethod
    def project(self, features: Tensor) -> Tensor:
        """Map features (..., D) to the LLM's width."""

    def encode_smaller(self, encode: Callable[..., Any], arguments: Mapping[str, Any], grid: Grid) -> Any:
        """Call ``encode`` (``get_image_features``) on images shrunk to ``grid`` patches.

        ``pooler_output`` keeps the shape of the whole images, so that placeholders fit; its values mean nothing.
        """
        raise NotImplementedError(f"{self.model_type} models cannot encode smaller images here")

    @abstractmethod
    def new_recording(self, arguments: Mapping[str, Any]) -> Recording:
        """An empty recording of the images of a call."""

    @contextmanager
    def record(self, taps: Sequence[Tap], arguments: Mapping[str, Any]) -> Iterator[Recording]:
        """Read ``taps`` off the vision tower while the context is open."""
        recording = self.new_recording(arguments)
        with recording.reading(taps):
            yield recording
