"""SmolVLM2: Idefics3's architecture under another name, with a processor of its own; videos are not pruned."""

from __future__ import annotations

from nuwa.models.idefics3 import Idefics3


class SmolVLM(Idefics3):
    """`SmolVLMForConditionalGeneration`, for pictures."""

    model_type = "smolvlm"
    architecture = "SmolVLMForConditionalGeneration"
    names = ("SmolVLMConfig", "SmolVLMImageProcessorPil", "SmolVLMProcessor")
