"""CLIP's joint space, in which patches of a picture and a text can be compared.

A LLaVA holds the picture half of a CLIP. The text half and both projections come from CLIP's own checkpoint, whole and
in safetensors: a folder, or a Hugging Face id, ``id@revision`` for another revision than the newest. (What is pickled
has to be converted first: ``CLIPModel.from_pretrained(id).save_pretrained(folder)``, and its tokenizer likewise.)

Shape letters: M segments of a text, D width of the tower, C width of the joint space.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import cast

import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional
from transformers import (
    CLIPConfig,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    PreTrainedTokenizerFast,
)

from nuwa.files import local_path
from nuwa.models.checkpoint import ModelError, check_safetensors, find_folder, read_json, weight_files
from nuwa.models.decoder import text_shape
from nuwa.pruners.base import MisfitError
from nuwa.pruning.flops import llm_flops

KEY = "pruner.clip"
NORM, PROJECTION = "vision_model.post_layernorm", "visual_projection.weight"
NEEDED = (NORM, PROJECTION, "text_model.", "text_projection.")
"""Weights that are not layers of the picture half."""


@dataclass
class JointSpace:
    """The text half of a CLIP, and what takes patches of its picture half to the joint space, all in float32.

    ``norm`` (2, D): weight and bias of the norm behind the tower, with its ``eps``; ``projection`` (C, D).
    """

    tokenizer: PreTrainedTokenizerFast
    text: CLIPTextModelWithProjection
    norm: Tensor
    eps: float
    projection: Tensor

    def patches(self, features: Tensor) -> Tensor:
        """Patches (..., D), whatever layer they come from, as unit vectors (..., C)."""
        weight, bias = self.norm.to(features.device)
        normed = functional.layer_norm(features.float(), weight.shape, weight, bias, self.eps)
        return functional.normalize(normed @ self.projection.to(features.device).T, dim=-1)

    @torch.no_grad()
    def segments(self, text: str) -> Tensor:
        """A text as unit vectors (M, C), one for each piece as long as the text half can read.

        As CDPruner's released code (commit 9541616) has it: the text is tokenized whole, so that only the last piece
        ends as CLIP's texts do, and is filled up with zeros that are masked.
        """
        ids = torch.tensor([self.tokenizer(text)["input_ids"]], device=self.text.device)
        length = self.text.config.max_position_embeddings
        missing = -ids.shape[1] % length
        ids, mask = (functional.pad(x, (0, missing)).view(-1, length) for x in (ids, torch.ones_like(ids)))
        return functional.normalize(self.text(input_ids=ids, attention_mask=mask).text_embeds.float(), dim=-1)


def check_joint_space(path: str, tower: Mapping[str, int]) -> None:
    """Check that ``path`` holds a whole CLIP whose picture half has the sizes of a model's ``tower``.

    Raises:
        ModelError: there is no whole CLIP at ``path``.
        nuwa.pruners.base.MisfitError: the sizes differ.
    """
    folder = _folder(path)
    content = read_json(folder / "config.json", KEY)
    if content.get("model_type") != "clip":
        raise ModelError(f"{KEY}={path}: its config.json says model_type {content.get('model_type')}, not clip")
    vision = _configs(path)[1]
    for name, size in tower.items():
        if (found := getattr(vision, name)) != size:
            raise MisfitError(
                f"{KEY}={path} is not the CLIP of this model: its vision tower has {name}={found}, the model's {size}"
            )
    read_json(folder / "tokenizer.json", KEY)
    for file in weight_files(folder, KEY):
        check_safetensors(file, KEY)


@lru_cache(maxsize=1)
def load_joint_space(path: str, device: torch.device) -> JointSpace:
    """The joint space of the CLIP at ``path``, its text half on ``device``. Only safetensors are read.

    Raises:
        ModelError: weights are missing or do not fit its config.json.
    """
    folder, (reading, vision) = _folder(path), _configs(path)
    text = CLIPTextModelWithProjection(reading).float()
    weights: dict[str, Tensor] = {}
    for file in weight_files(folder, KEY):
        with safe_open(file, framework="pt") as content:
            names = [name for name in content.keys() if name.startswith(NEEDED)]  # noqa: SIM118
            weights |= {name: content.get_tensor(name).float() for name in names}
    try:
        norm = torch.stack([weights[f"{NORM}.{name}"] for name in ("weight", "bias")])
        projection = weights[PROJECTION]
        text.load_state_dict({name: weights[name] for name in text.state_dict()})
    except (KeyError, RuntimeError) as error:
        raise ModelError(f"{KEY}={path}: weights are missing or do not fit config.json: {error}") from error
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    return JointSpace(tokenizer, text.to(device).eval(), norm, vision.layer_norm_eps, projection)


def _folder(path: str) -> Path:
    name, _, revision = (path, "", "") if local_path(path).exists() else path.partition("@")
    return find_folder(name, revision or None, KEY)


@lru_cache(maxsize=1)
def _configs(path: str) -> tuple[CLIPTextConfig, CLIPVisionConfig]:
    """The configs of the text half and of the picture half."""
    config = CLIPConfig.from_pretrained(_folder(path), local_files_only=True)
    text, vision = config.text_config, config.vision_config
    assert isinstance(text, CLIPTextConfig) and isinstance(vision, CLIPVisionConfig)
    text.projection_dim = config.projection_dim  # whole CLIPs need not set the text half's own
    return text, vision


def relevance_flops(path: str, patches: int, width: int) -> float:
    """FLOPs of one segment through the text half, ``patches`` of ``width`` to the joint space, and their cosines."""
    text, _ = _configs(path)
    reading = llm_flops([text.max_position_embeddings] * text.num_hidden_layers, text_shape(text, width))
    return reading + 2 * patches * cast(int, text.projection_dim) * (width + 1)
