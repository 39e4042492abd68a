"""From ``conf/model/*.yaml`` to a model that is ready to answer: check the files, load, encode, decode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nuwa.benchmarks.base import Sample
from nuwa.models.prompts import PromptFormat


class ModelError(ValueError):
    """A model cannot be loaded as asked; the message names the config key."""


@dataclass
class LoadedModel:
    """A model with everything between a `Sample` and its tensors, and between token ids and text."""

    model: torch.nn.Module
    tokenizer: object
    image_processor: object
    prompt: PromptFormat
    family: str
    name: str

    @property
    def device(self) -> torch.device:
        """Where inputs go: the device of the embeddings, also when the layers are spread over several."""
        return self.model.get_input_embeddings().weight.device

    def encode(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Left-padded ``input_ids`` and ``attention_mask`` (B, L); ``pixel_values`` (images, 3, S, S) if any."""
        raise NotImplementedError

    def decode(self, ids: Tensor, prompt_length: int) -> list[str]:
        """The answers in ``ids`` (B, L) as `generate` returns them, the prompt cut off: B stripped strings."""
        raise NotImplementedError


def load_model(
    path: str,
    family: str = "llava",
    name: str | None = None,
    revision: str | None = None,
    dtype: str = "auto",
    attention: str = "sdpa",
    device: str = "auto",
    device_map: str | dict | None = None,
    image_frame: str = "pad",
    prompt: str = "",
    image_joiner: str = " ",
    image_end: str = "\n",
) -> LoadedModel:
    """Load a checkpoint."""
    raise NotImplementedError
