"""Model families: one file each, found by the checkpoint's ``model_type``."""

from __future__ import annotations

from torch import nn

from nuwa.models.base import Adapter
from nuwa.models.llava import LlavaAdapter
from nuwa.models.llava_next import LlavaNextAdapter
from nuwa.models.llava_onevision import LlavaOnevisionAdapter
from nuwa.models.qwen2_5_vl import Qwen2_5_VLAdapter

FAMILIES: tuple[type[Adapter], ...] = (LlavaAdapter, LlavaNextAdapter, LlavaOnevisionAdapter, Qwen2_5_VLAdapter)
ADAPTERS = {family.model_type: family for family in FAMILIES}


def axes_of(family: str | None) -> int:
    """Axes of a family's position ids; 1 for a family that is not known."""
    return ADAPTERS[family].axes if family in ADAPTERS else 1


def adapter_for(model: nn.Module) -> Adapter:
    """The adapter of a loaded model.

    Raises:
        ValueError: the family is not supported; the message lists those that are.
    """
    model_type = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
    if model_type not in ADAPTERS:
        raise ValueError(f"model family {model_type!r} is not supported; supported: {', '.join(sorted(ADAPTERS))}")
    return ADAPTERS[model_type](model)
