"""A family's language model: its layers, what a call hands to them, and what their attention multiplies.

Shape letters: B prompts, L tokens, P of those that are left, Q queries, H width, C axes of the position ids.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn

from nuwa.models.towers import SelfAttention
from nuwa.pruning.flops import ModelShape
from nuwa.pruning.masks import format_mask
from nuwa.pruning.scores import Heads, rotate, split_heads
from nuwa.pruning.segments import Keys, model_ids

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    class GenerativeModel(PreTrainedModel):
        """What every supported architecture is."""

        generate: Callable[..., Any]


class Decoder(ABC):
    """The language model of one family. What differs from Llama's and Qwen2's is overridden.

    ``axes`` are the axes of its position ids. ``own_masks``: its masks are more than causal (`layer_mask`).

    Args:
        config: the config of a checkpoint.
        model: the loaded, unmodified model.
    """

    model_type: ClassVar[str]
    axes: ClassVar[int] = 1
    own_masks: ClassVar[bool] = False

    def __init__(self, config: PreTrainedConfig, model: GenerativeModel | None = None) -> None:
        self.config = config
        self._model = model

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
    def language_model(self) -> nn.Module:
        """The decoder without its head."""
        return self.multimodal.get_submodule("language_model")

    @property
    def layers(self) -> Sequence[nn.Module]:
        """Decoder layers."""
        return list(self.language_model.get_submodule("layers").children())

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
