"""The contract of a model family: where its tokens, layers and ids are. The only folder that knows transformers' names.

A family is one file, named as its ``model_type``. It imports transformers inside functions only, because that takes
seconds, and `nuwa.models.axes_of` reads families without a model.

Shape letters: B prompts, L length, N tokens of an image, D tower width, H LLM width, C axes of the position ids.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn

from nuwa.models.towers import Recording, SelfAttention
from nuwa.pruners.base import Tap, Tower
from nuwa.pruning.flops import ModelShape
from nuwa.pruning.layout import Grid, ImageLayout
from nuwa.pruning.masks import format_mask
from nuwa.pruning.scores import Heads, rotate, split_heads
from nuwa.pruning.segments import Keys, model_ids

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

    from nuwa.models.processors import PictureOptions, PictureProcessor, Source
    from nuwa.models.random_configs import Sizes, SpecialTokens
    from nuwa.models.video_processors import VideoProcessor

    class GenerativeModel(PreTrainedModel):
        """What every supported architecture is."""

        generate: Callable[..., Any]


DEEPSTACK = ("merged", "kept")
"""What tokens that a method made of several add of the deepstack planes: the same merged, or the kept row's own."""
FOUND = "found"
"""What `Family.prepare` adds to the arguments of a call."""


class Family(ABC):
    """One family of models. A checkpoint's config is enough for what stands above ``model``; the rest needs a model.

    ``architecture`` is the name of its class in transformers, ``placeholder`` the token that stands for one visual
    token of a picture in a prompt, ``video_placeholder`` that of a video, None where the family reads no videos.
    ``kind`` is what the methods about "images" are about, pictures or videos: `kinds` has both, and a video is an image
    of several frames. ``axes`` are the axes of its position ids. ``projector_at`` and ``tower_layers_at`` are where
    `multimodal` has them, ``tower_sizes`` the sizes by which the tower's config tells it from others. ``special`` are
    the tokens of its tokenizer, ``half`` the half precision of its checkpoints. ``own_masks``: its masks are more than
    causal (`layer_mask`). ``planes_at``: the entry of the output of ``get_image_features`` that holds further planes of
    features, each of all images (deepstack).

    Args:
        config: the config of a checkpoint.
        model: the loaded, unmodified model.

    Raises:
        ValueError: a config that the family does not support.
    """

    model_type: ClassVar[str]
    architecture: ClassVar[str]
    axes: ClassVar[int] = 1
    placeholder: ClassVar[str] = "<image>"
    video_placeholder: ClassVar[str | None] = None
    kind: str = "image"
    projector_at: ClassVar[str]
    tower_layers_at: ClassVar[str]
    tower_sizes: ClassVar[tuple[str, ...]] = ("hidden_size", "num_hidden_layers", "patch_size", "image_size")
    special: ClassVar[SpecialTokens]
    half: ClassVar[torch.dtype] = torch.float16
    own_masks: ClassVar[bool] = False
    planes_at: ClassVar[str | None] = None

    def __init__(self, config: PreTrainedConfig, model: GenerativeModel | None = None) -> None:
        self.config = config
        self._model = model

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

    @classmethod  # noqa: B027
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

    # The language model's call: what differs from Llama's and Qwen2's is overridden.

    def check_deepstack(self, choice: str) -> None:
        """Refuse what is asked of deepstack planes where tokens merge: ``merged`` with them, or the ``kept`` rows' own.

        Raises:
            ValueError: there is no such choice, or the family has no planes.
        """
        if choice not in DEEPSTACK:
            raise ValueError(f"position.deepstack={choice}: expected one of {', '.join(DEEPSTACK)}")
        if choice != DEEPSTACK[0] and self.planes_at is None:
            raise ValueError(f"position.deepstack={choice}: {self.model_type} models have no deepstack planes")

    def companions(self, kwargs: Mapping[str, Any]) -> dict[str, Tensor]:
        """What travels with tokens besides embeddings, mask and ids: (B, L, ...) of each, by name.

        ``kwargs`` are the language model's arguments for a prompt. Whenever tokens leave, the engine cuts companions as
        it cuts embeddings: Qwen3-VL's deepstack planes, for instance, or inputs of every layer (Gemma 3n).
        """
        return {}

    def with_companions(self, kwargs: Mapping[str, Any], companions: Mapping[str, Tensor]) -> dict[str, Any]:
        """The language model's arguments for the tokens that enter it, whose companions are (B, P, ...).

        By default a companion is an argument of its own name.
        """
        return {**kwargs, **companions}

    def enter_layer(
        self, layer: int, hidden: Tensor, kwargs: Mapping[str, Any], companions: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Any]]:
        """Input (B, P, H) and arguments of a decoder layer, given the companions (B, P, ...) of the tokens in it.

        Called for the layers of a prompt that has companions, before tokens leave there.
        """
        return hidden, dict(kwargs)

    def layer_kind(self, layer: int) -> str:
        """Layers of one kind share their mask and their rotary embeddings."""
        return "full_attention"

    def sees(self, kind: str, keys: Keys, query: Tensor) -> Tensor:
        """Which keys the tokens in the columns ``query`` (Q,) see in layers of a kind: (B, Q, K) bool."""
        causal = query[:, None] >= torch.arange(keys.valid.shape[1], device=query.device)
        return causal & keys.valid[:, None]

    def layer_mask(self, kind: str, keys: Keys, queries: int, padded: bool, dtype: torch.dtype) -> Tensor | None:
        """The mask of layers of a kind, where the last ``queries`` keys are the queries; ``padded``: some key is none.

        The only place that makes one. A family whose masks are more than causal sets ``own_masks``: every layer of a
        pruned prompt then gets its mask here, not only those behind a pruning layer.
        """
        config: Any = self.language_model.config
        return format_mask(config._attn_implementation, keys.valid, queries, padded, dtype)

    def rotary(self, kind: str, hidden: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines of position ids (C, B, L) in layers of a kind, in the place and precision of ``hidden``."""
        return self.language_model.get_submodule("rotary_emb")(hidden, model_ids(ids.to(hidden.device)))

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

    def check_prompt(self, input_ids: Tensor, sizes: Sequence[int]) -> None:  # noqa: B027 (few have to)
        """Refuse prompts (B, L) whose placeholders cannot stand for images of ``sizes`` tokens.

        Raises:
            ValueError: they cannot; the message says what to do.
        """

    # Attached to a model.

    @property
    def model(self) -> GenerativeModel:
        """The model.

        Raises:
            ValueError: the family was made of a config alone.
        """
        if self._model is None:
            raise ValueError(f"this {self.model_type} has a config, but no model")
        return self._model

    @property
    def multimodal(self) -> nn.Module:
        """The module that owns ``get_image_features`` and calls the language model."""
        return self.model.get_submodule("model")

    @property
    def encode_images(self) -> Callable[..., Any]:
        """The `encoder` of the model, or what stands in its place."""
        return cast(Callable[..., Any], getattr(self.multimodal, self.encoder))

    @property
    def language_model(self) -> nn.Module:
        """The decoder without its head."""
        return self.multimodal.get_submodule("language_model")

    @property
    def layers(self) -> Sequence[nn.Module]:
        """Decoder layers."""
        return list(self.language_model.get_submodule("layers").children())

    @property
    def projector(self) -> nn.Module:
        """What maps the tower's features to the LLM's width."""
        return self.multimodal.get_submodule(self.projector_at)

    @property
    def tower_layers(self) -> Sequence[nn.Module]:
        """The layers of the vision tower."""
        return list(self.multimodal.get_submodule(self.tower_layers_at).children())

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
        return self.language_model.get_submodule("norm")(hidden).to(hidden.device)

    def queries_keys(
        self, layer: nn.Module, hidden: Tensor, rotary: tuple[Tensor, Tensor] | None, query: Tensor
    ) -> Heads:
        """Queries of the positions ``query`` (Q,), and keys, as a decoder layer's attention multiplies them.

        Llama's and Qwen's layers, with a norm of every head's queries and keys where they have one (Qwen3).

        Args:
            layer: one of `layers`.
            hidden: (B, L, H) input of the layer.
            rotary: cos and sin of its positions, each (B or 1, L, d); None leaves the rotation out.
        """
        attention = cast(SelfAttention, layer.self_attn)
        normed = layer.get_submodule("input_layernorm")(hidden)
        query = query.to(normed.device)
        queries = _normed_heads(attention, "q", normed[:, query])
        keys = _normed_heads(attention, "k", normed)
        if rotary is not None:
            cos, sin = (part.to(normed.device) for part in rotary)
            keys, queries = rotate(keys, cos, sin), rotate(queries, cos[:, query], sin[:, query])
        return Heads(queries, keys, attention.scaling)

    def embed(self, ids: Tensor) -> Tensor:
        """The LLM's embeddings of token ids: (...,) -> (..., H)."""
        table = cast(nn.Embedding, self.model.get_input_embeddings())
        return table(ids.to(table.weight.device))

    def values(self, layer: nn.Module, hidden: Tensor) -> Tensor:
        """Values that a decoder layer makes of its input (B, L, H), heads concatenated."""
        attention = cast(SelfAttention, layer.self_attn)
        return attention.v_proj(layer.get_submodule("input_layernorm")(hidden))

    @property
    def frequencies(self) -> Tensor:
        """Angles by which a position id turns each pair of a head's channels: (head_dim / 2,) float32."""
        return self.language_model.get_submodule("rotary_emb").get_buffer("inv_freq")

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


def text_shape(text: Any, vision_hidden: int, image_tokens: int | None = None) -> ModelShape:
    """The sizes in a text model's config, beside a tower of width ``vision_hidden``."""
    return ModelShape(
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        intermediate=text.intermediate_size,
        kv_heads=getattr(text, "num_key_value_heads", text.num_attention_heads),
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
        vision_hidden=vision_hidden,
        image_tokens=image_tokens,
    )


def _normed_heads(attention: SelfAttention, name: str, states: Tensor) -> Tensor:
    """States (B, L, H) as queries (``q``) or keys (``k``) before their rotation: (B, heads, L, d)."""
    heads = split_heads(getattr(attention, f"{name}_proj")(states), attention.head_dim)
    norm = getattr(attention, f"{name}_norm", None)
    return heads if norm is None else norm(heads)


def remove_hooks(handles: Iterator[Any] | Sequence[Any]) -> None:
    """Remove every hook of a list of handles."""
    for handle in handles:
        handle.remove()
