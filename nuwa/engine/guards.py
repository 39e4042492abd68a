"""Refuses uses of a model that pruning does not support, and says what to do instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import transformers
from torch import nn
from transformers import DynamicCache

from nuwa.engine.state import PrefillState, cached_length, state_of
from nuwa.models.base import Family


class SessionError(RuntimeError):
    """A use of the model that pruning does not support; the message says what to do instead."""


def check_no_placeholders(given: Mapping[str, Any], image_token_id: int) -> None:
    """Refuse a prompt with placeholders but without images: a chunk of a chunked prefill (transformers < 5.23)."""
    input_ids = given.get("input_ids")
    if input_ids is None or input_ids.shape[1] == 1 or state_of(given.get("past_key_values")) is not None:
        return
    if bool((input_ids == image_token_id).any()):
        raise SessionError("image placeholders without images: chunked prefill is not supported with pruning")


def check_no_videos(given: Mapping[str, Any]) -> None:
    """Refuse videos, which would run unpruned: ``given`` are the model's arguments by name."""
    if given.get("pixel_values_videos") is not None:
        raise SessionError("videos are not pruned; call the model outside the session, or show it frames as images")


def check_count(name: str, given: Sequence[str] | None, count: int) -> None:
    """Refuse names or questions for another number of images than a call has."""
    if given is not None and len(given) != count:
        raise SessionError(f"session.{name} is about {len(given)} images, but this call has {count}")


def check_images(given: Mapping[str, Any], ours: bool) -> None:
    """Refuse images whose place in a prompt is not known: ``given`` are the model's arguments by name.

    ``ours``: their features, if there are any yet, were encoded in this session.
    """
    if not ours:
        raise SessionError(
            "these image features were encoded outside this session, or cut into chunks (prefill_chunk_size); "
            "call the model with pixel_values and without chunked prefill"
        )
    if cached_length(given.get("past_key_values")):
        raise SessionError("new images on a filled cache are not supported; start a new prompt")
    if given.get("input_ids") is None:
        raise SessionError("pass input_ids with images: their placeholders say where the images are")


def check_prefill(mask: Any, cache: Any, batch: int, length: int, family: Family) -> None:
    """Refuse caches and masks that layers of different lengths cannot share."""
    if cache is not None and not isinstance(cache, DynamicCache):
        raise SessionError(
            f"pruned layers cache different lengths, which {type(cache).__name__} cannot hold; use a DynamicCache "
            "(generate's default, no cache_implementation)"
        )
    if mask is not None and (not torch.is_tensor(mask) or tuple(mask.shape) != (batch, length)):
        raise SessionError(
            f"the attention mask must be 2-D, ({batch}, {length}); static caches, chunked prefill and custom masks are "
            "not supported with pruning"
        )
    config: Any = family.language_model.config
    if getattr(config, "sliding_window", None) is not None and not family.own_masks:
        raise SessionError("language models with a sliding window are not supported with pruning")


def check_checkpointing(layers: Sequence[nn.Module]) -> None:
    """Refuse to prune inside layers that run their hooks again when a backward pass recomputes them."""
    for layer in layers:
        replays = type(layer).__call__ is not nn.Module.__call__
        if layer.training and getattr(layer, "gradient_checkpointing", False) and replays:
            raise SessionError(
                f"transformers {transformers.__version__} runs hooks again when gradient checkpointing recomputes a "
                "layer, which pruning inside the LLM cannot follow; use 5.23 or later, or train without checkpointing"
            )


def check_recurrent(new: torch.Tensor, queries: int, recurrent: bool) -> None:
    """Refuse padding among new tokens (B, N) of which the last ``queries`` are read, where layers keep a state."""
    if recurrent and queries > 1 and not bool(new[:, -queries:].all()):
        raise SessionError(
            "linear attention layers forget while they read padding: continue rows of one length together"
        )


def check_decode(mask: Any, state: PrefillState, batch: int, generated: int, queries: int) -> None:
    """Refuse a continuation whose tokens were cut out of the unpruned prompt by the length of the pruned cache."""
    shape = batch, state.prompt.whole.length + generated + queries
    if generated < 0 or (mask is not None and (not torch.is_tensor(mask) or tuple(mask.shape) != shape)):
        raise SessionError(
            "the pruned cache is shorter than its prompt: continue with the new ids only, and with a 2-D attention "
            f"mask over the whole unpruned prompt and every new token {shape}, or none"
        )
