"""Model families: one file each, named as its ``model_type``, and found by that name."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from nuwa.models.base import Family

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig

    from nuwa.models.decoder import GenerativeModel


def family_names() -> tuple[str, ...]:
    """The supported families: the files here that are named as a model type of transformers."""
    from transformers import CONFIG_MAPPING

    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name in CONFIG_MAPPING))


def family_class(model_type: str) -> type[Family]:
    """The family of a model type.

    Raises:
        ValueError: the family is not supported; the message lists those that are.
    """
    found = _found(model_type)
    if found is None:
        raise ValueError(f"model family {model_type!r} is not supported; supported: {', '.join(family_names())}")
    return found


def axes_of(model_type: str | None) -> int:
    """Axes of a family's position ids; 1 for a family that is not known. Imports no transformers.

    >>> axes_of("qwen2_5_vl"), axes_of(None)
    (3, 1)
    """
    found = _found(model_type)
    return 1 if found is None else found.axes


def _found(model_type: str | None) -> type[Family] | None:
    """The family in the file of that name."""
    if any(module.name == model_type for module in pkgutil.iter_modules(__path__)):
        for kind in vars(import_module(f"{__name__}.{model_type}")).values():
            if isinstance(kind, type) and issubclass(kind, Family) and vars(kind).get("model_type") == model_type:
                return kind
    return None


def family_of(config: PreTrainedConfig) -> Family:
    """The family of a checkpoint's config, without a model.

    Raises:
        ValueError: the family is not supported, or the config is one that it does not support.
    """
    return family_class(config.model_type)(config)


def adapter_for(model: nn.Module) -> Family:
    """The family of a loaded model, attached to it; PEFT's wrapping is taken off.

    Raises:
        ValueError: the family is not supported, or the model is one that it does not support.
    """
    if hasattr(model, "get_base_model"):
        model = cast(Any, model).get_base_model()
    _check_unwrapped(model)
    config = getattr(model, "config", None)
    kind = family_class(getattr(config, "model_type", type(model).__name__))
    return kind(cast("PreTrainedConfig", config), cast("GenerativeModel", model))


def _check_unwrapped(model: nn.Module) -> None:
    """Refuse what wraps a model of transformers, or is a part of one, and say where the model is."""
    from torch.nn import DataParallel
    from transformers import PreTrainedModel

    kind = type(model).__name__
    if isinstance(model, DataParallel):
        raise ValueError(
            f"{kind} copies its model to every GPU at each call, and a session is about one; run one process per GPU "
            "(trainer=ddp), or load the model with device_map"
        )
    inside = next((name for name in ("module", "_orig_mod", "base_model") if hasattr(model, name)), None)
    if inside and not isinstance(model, PreTrainedModel):
        raise ValueError(f"{kind} wraps a model; prune the one inside it (its .{inside})")
    if isinstance(model, PreTrainedModel) and not model.can_generate():
        raise ValueError(f"{kind} has no head; prune the model around it, the one that has generate()")
