"""A toy `LoadedModel` of every family, from its config for random weights: real pictures, prompts and token counts."""

from __future__ import annotations

from collections import ChainMap
from functools import cache

import hydra
from helpers.jobs import CONF

from nuwa.config import register
from nuwa.models.loaded import LoadedModel

TOY = {
    "layers": 2, "hidden_size": 64, "intermediate_size": 32, "heads": 4, "kv_heads": 2, "vocab_size": 400,
    "vision_layers": 2, "vision_hidden_size": 16, "vision_intermediate_size": 16, "vision_heads": 2}  # fmt: skip
NAMES = {
    "llava": ("llava_1_5_random", 56),
    "llava_next": ("llava_next_random", 56),
    "llava_next_video": ("llava_next_video_random", 56),
    "llava_onevision": ("llava_onevision_random", 58),  # not a multiple of the patch, as the real 384 px are none
    "gemma3": ("gemma3_random", 224),
    "idefics3": ("idefics3_random", 56),
    "internvl": ("internvl_random", 56),
    "qwen2_5_vl": ("qwen2_5_vl_random", 336),
    "qwen3_5": ("qwen3_5_random", 336, {"layers": 4}),  # the fourth is the first with full attention
    "smolvlm": ("smolvlm_random", 56),
}
FAMILIES = ("llava_next", "llava_onevision", "qwen2_5_vl")
"""Those whose pictures take different numbers of tokens."""


@cache
def toy(family: str, **changes) -> LoadedModel:
    """A model of conf/model at toy size, with other values."""
    name, image_size, *more = NAMES.get(family, (f"{family}_random", 336))
    register()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra.compose("config", [f"model={name}"]).model
    return hydra.utils.instantiate(config, **ChainMap(changes, *more, {"image_size": image_size}, TOY))


def tokens(loaded: LoadedModel, *images) -> list[int]:
    """How many placeholders stand in a prompt for each picture."""
    texts = loaded.pictures.texts(loaded.pictures.encode(images), len(images))
    return [text.count(loaded.placeholder) for text in texts]
