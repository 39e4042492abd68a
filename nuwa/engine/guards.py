"""Refuses uses of a model that pruning does not support, and says what to do instead."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import transformers
from packaging.version import Version
from torch import Tensor, nn
from transformers import DynamicCache, StaticCache

from nuwa.models.base import Family
from nuwa.pruners.base import Pruner
from nuwa.pruning.prompt import Prompt


class SessionError(RuntimeError):
    """A use of the model that pruning does not support; the message says what to do instead."""


NEWEST = "5.24.0"
"""The newest transformers that a session was tested with: the one in constraints.txt."""


@functools.cache
def warn_of_version(found: str) -> None:
    """Say once that a version of transformers is newer than what sessions were tested with."""
    if Version(found) > Version(NEWEST):
        warnings.warn(
            f"transformers {found} is newer than {NEWEST}, with which pruning was tested; if numbers look odd, compare "
            f"with that (pip install transformers=={NEWEST})",
            stacklevel=4,
        )


def check_no_placeholders(input_ids: Tensor | None, placeholders: Sequence[int], least: int) -> None:
    """Refuse ids with ``least`` or more of the ``placeholders`` in a row of the batch, but without images."""
    if input_ids is None or input_ids.shape[1] < max(least, 2):
        return
    found = sum((input_ids == placeholder).sum(1) for placeholder in placeholders)
    if bool(torch.as_tensor(found >= least).any()):
        raise SessionError(
            "image placeholders without images: pass pixel_values with their prompt, and behind a cached prompt the "
            "new ids only (or call generate, which takes them all); chunked prefill, and guidance_scale without a "
            "cache, are not supported with pruning"
        )


def check_no_videos(given: Mapping[str, Any], family: Family) -> None:
    """Refuse videos that would run unpruned: ``given`` are the model's arguments by name."""
    encoded = (given.get("mm_encoder_outputs") or {}).get("video")
    if "video" not in family.kinds and (encoded is not None or given.get("pixel_values_videos") is not None):
        raise SessionError(
            f"videos are not pruned in {family.model_type} models; show frames as pictures, or call the model outside "
            "the session"
        )


def check_no_replica(module: nn.Module) -> None:
    """Refuse a copy that nn.DataParallel made of a model in a session: copies would share what the session notes."""
    if getattr(module, "_is_replica", False):
        raise SessionError(
            "DataParallel copies its model to every GPU at each call, and a session is about one; run one process per "
            "GPU (trainer=ddp), or load the model with device_map"
        )


def check_count(name: str, given: Sequence[str] | None, count: int, exact: bool) -> None:
    """Refuse names or questions for another number of images than a call has; not ``exact``: at least for as many."""
    if given is not None and (len(given) < count or (exact and len(given) != count)):
        raise SessionError(f"session.about({name}=...) is about {len(given)} images, but this call has {count}")


def check_images(given: Mapping[str, Any], ours: bool) -> None:
    """Refuse images whose place in a prompt is not known: ``given`` are the model's arguments by name.

    ``ours``: their features, if there are any yet, were encoded in this session.
    """
    if not ours:
        raise SessionError(
            "these image features were encoded outside this session, or cut into chunks (prefill_chunk_size); "
            "call the model with pixel_values and without chunked prefill"
        )
    if given.get("input_ids") is None:
        raise SessionError("pass input_ids with images: their placeholders say where the images are")


def check_cells(strategy: str, prompt: Prompt) -> None:
    """Refuse ``rpme_1d`` where an image's ids skip some: cells that it numbers would be none."""
    low, high = prompt.spans
    if strategy != "rpme_1d" or len(low) == 1:
        return
    cells = (high - low + 1).prod(0)
    for row, plans in enumerate(prompt.rows):
        for number, plan in enumerate(plans):
            if int(cells[row, number]) != plan.layout.patches:
                raise SessionError(
                    f"position=rpme_1d numbers the {plan.layout.patches} tokens of {plan.id} along its ids, which jump "
                    "in time (a video whose frames are not a step apart); use position=rpme, which stretches every axis"
                )


def check_cache(cache: Any, family: Family, alike: bool) -> None:
    """Refuse caches that cannot hold what is left: where all layers are ``alike``, a static one can, too."""
    if isinstance(cache, StaticCache) and alike and not family.own_masks:
        return
    if cache is not None and not isinstance(cache, DynamicCache):
        raise SessionError(
            f"{type(cache).__name__} cannot hold layers of different lengths or with masks of their own, which is what "
            "comes of this method here; use a DynamicCache, generate's default (a static cache goes with methods that "
            "prune before the LLM only)"
        )


def check_window(family: Family) -> None:
    """Refuse a sliding window over tokens of which some are gone, where the family does not make its masks itself."""
    config: Any = family.language_model.config
    if getattr(config, "sliding_window", None) is not None and not family.own_masks:
        raise SessionError("language models with a sliding window are not supported with pruning")


def check_text(pruner: Pruner, prompt: Prompt) -> None:
    """Refuse a prompt of nothing but an image for methods that ask inside the LLM what its text looks at."""
    whole = prompt.whole
    textless = ~(whole.valid & (whole.image < 0)).any(1) & (whole.image >= 0).any(1)
    if pruner.info.text_aware and bool(textless.any()):
        row = int(textless.long().argmax())
        raise SessionError(f"pruner {pruner.name} reads the text of a prompt, and row {row} is an image without any")


def check_not_packed(ids: Any, given: bool, cached: bool, family: Family) -> None:
    """Refuse several prompts in one row, told apart by ``ids`` that begin anew: pruning would let them see each other.

    ``ids`` are those of the language model's call; transformers reads them so if they were ``given`` without a mask.
    """
    config: Any = family.language_model.config
    if not given or not torch.is_tensor(ids) or (cached and not config._attn_implementation.startswith("flash")):
        return
    text = ids if ids.dim() == 2 else ids[0] if len(ids) > family.axes else None  # M-RoPE: the text's own come first
    if text is not None and bool((text.diff(dim=-1) != 1).any()):
        raise SessionError(
            "position ids that skip or begin anew, without an attention mask, mean several prompts packed into a row, "
            "which pruning does not support: give every prompt a row of its own, or an attention mask if it is one"
        )


def check_feature_choice(given: Mapping[str, Any], config: Any) -> None:
    """Refuse a call that reads other features off the tower than its config says: methods look at the config's."""
    for name in ("vision_feature_layer", "vision_feature_select_strategy"):
        if given.get(name) is not None and given[name] != getattr(config, name, None):
            raise SessionError(
                f"this call asks for {name}={given[name]!r}, and the model's config says "
                f"{getattr(config, name, None)!r}, by which the method reads the tower; set it in the config, before "
                "the session"
            )


def check_not_deciding(model: nn.Module, busy: Sequence[nn.Module]) -> None:
    """Refuse a call of a ``model`` about whose tokens a method is just deciding: one of those that are ``busy``."""
    if any(one is model for one in busy):
        raise SessionError(
            "a method called the model while it decides what this model keeps; call it before the session, or a copy "
            "of it (copy.deepcopy)"
        )


def warn_of_embeddings(embedded: bool, images_seen: int) -> None:
    """Say on leaving that nothing was pruned, where images may have been put among embeddings by hand."""
    if embedded and not images_seen:
        warnings.warn(
            "no image was pruned: the model was called with inputs_embeds, in which images cannot be told from text; "
            "pass input_ids and pixel_values",
            stacklevel=3,
        )


def check_later_images(calibration: str, later: bool) -> None:
    """Refuse images on a filled cache where the calibration is about one prompt."""
    if later and calibration == "restore":
        raise SessionError(
            "calibration.kind=restore is about one prompt: images on a filled cache are not supported with it; start a "
            "new prompt, or use calibration.kind=size"
        )


def check_mask(mask: Any, batch: int, start: int, length: int) -> None:
    """Refuse masks that are not about every token so far: ``start`` cached ones, had none left, and ``length`` new."""
    if not torch.is_tensor(mask) or tuple(mask.shape) != (batch, start + length):
        found = tuple(mask.shape) if torch.is_tensor(mask) else type(mask).__name__
        raise SessionError(
            f"the attention mask must be 2-D, ({batch}, {start + length}), and not {found}: over the {start} tokens "
            f"that were read before, those that left included, and {length} new ones; chunked prefill and custom masks "
            "are not supported with pruning"
        )


def check_recurrent(read: Tensor, family: Family) -> None:
    """Refuse padding among tokens ``read`` (B, N) behind others, where layers keep a state of what they have read."""
    if family.shape.attention is not None and not bool(read.all()):
        raise SessionError(
            "linear attention layers forget while they read padding: continue rows of one length together"
        )


def check_checkpointing(layers: Sequence[nn.Module]) -> None:
    """Refuse to prune inside layers that run their hooks again when a backward pass recomputes them."""
    for layer in layers:
        replays = type(layer).__call__ is not nn.Module.__call__
        if layer.training and getattr(layer, "gradient_checkpointing", False) and replays:
            raise SessionError(
                f"transformers {transformers.__version__} runs hooks again when gradient checkpointing recomputes a "
                "layer, which pruning inside the LLM cannot follow; use 5.23 or later, or train without checkpointing"
            )
