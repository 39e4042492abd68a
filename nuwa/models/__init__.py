"""Model families: one file each, found by the checkpoint's ``model_type``."""

from __future__ import annotations

from torch import nn

from nuwa.models.base import Adapter
from nuwa.models.llava import LlavaAdapter
from nuwa.models.qwen2_5_vl import Qwen2_5_VLAdapter
from nuwa.models.llava_next import LlavaNextAdapter

ADAPTERS: dict[str, type[Adapter]] = {cls.model_type: cls for cls in (LlavaAdapter, LlavaNextAdapter)}


def adapter_for(model: nn.Module) -> Adapter:
    """The adapter of a loaded model.

    Raises:
        ValueError: the family is not supported; the message lists those that are.
    """
    model_type = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
    if model_type not in ADAPTERS:
        raise ValueError(f"model family {model_type!r} is not supported; supported: {', '.join(sorted(ADAPTERS))}")
    return ADAPTERS[model_type](model)
