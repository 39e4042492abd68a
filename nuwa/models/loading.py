"""From ``conf/model/*.yaml`` to a model that is ready to answer: check the choices and the files, load."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from typing import Literal, get_args

import torch
from transformers import PreTrainedTokenizerFast
from transformers.utils import is_flash_attn_2_available

from nuwa.models.checkpoint import ModelError, check_folder, find_folder
from nuwa.models.families import FAMILIES, ImageFrame, PictureOptions
from nuwa.models.loaded import LoadedModel, check_boxes
from nuwa.models.prompts import IMAGE, PromptFormat

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Attention = Literal["sdpa", "eager", "flash_attention_2"]
BoxFrame = Literal["unit", "pixel"]


def load_model(
    path: str,
    prompt: str,
    family: str = "llava",
    name: str = "",
    revision: str | None = None,
    dtype: Dtype = "auto",
    attention: Attention = "sdpa",
    device: str = "auto",
    device_map: str | None = None,
    image_frame: ImageFrame = "auto",
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    jpeg_quality: int | None = None,
    image: str = IMAGE,
    image_joiner: str = " ",
    image_end: str = "\n",
    box_frame: BoxFrame = "unit",
    box_prompt: str | None = None,
) -> LoadedModel:
    """Load a checkpoint from a folder, ``package:<folder inside nuwa>``, or the Hugging Face hub.

    Only safetensors are read and no code of a checkpoint is run. ``dtype="auto"`` is float32 on a CPU and the
    checkpoint's own elsewhere. The picture options are those of `PictureOptions`, the box options of `LoadedModel`.

    Raises:
        ModelError: a choice is unknown or impossible here, a file is missing or broken, or weights are missing.
    """
    prompt_format = PromptFormat(prompt, image_joiner, image_end, image)
    choose("model.image_frame", image_frame, get_args(ImageFrame))
    check_boxes(box_frame, box_prompt)
    place = resolve_device(device)
    settings = {"dtype": resolve_dtype(dtype, place), "attn_implementation": resolve_attention(attention, dtype, place)}
    if device_map is not None and importlib.util.find_spec("accelerate") is None:
        raise ModelError(f"model.device_map={device_map} needs the package accelerate: pip install accelerate")
    choose("model.family", family, tuple(FAMILIES))
    known = FAMILIES[family]
    folder = find_folder(path, revision)
    check_folder(folder, tuple(FAMILIES), family)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    model = _load_weights(folder, known.architecture, settings | {"device_map": device_map})
    if device_map is None:
        model = model.to(place)
    options = PictureOptions(image_frame, min_pixels, max_pixels, jpeg_quality)
    pictures = known.processor(folder, model.config, options)
    return LoadedModel(
        model.eval(), tokenizer, pictures, prompt_format, known.placeholder, family, name or path, box_frame, box_prompt
    )


def resolve_device(device: str) -> torch.device:
    """``auto`` is the first GPU, or the CPU where there is none."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise ModelError(f"model.device={device} is not a device (auto, cpu, cuda, cuda:0 ...)") from error
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise ModelError(f"model.device={device}, but this machine has {torch.cuda.device_count()} CUDA devices")
    return place


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype | str:
    """A torch dtype, or ``auto`` (the checkpoint's own); half precision is not worth having on a CPU."""
    choose("model.dtype", dtype, get_args(Dtype))
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else "auto"
    return DTYPES[dtype]


def resolve_attention(attention: str, dtype: str, device: torch.device) -> str:
    """The attention kernel, refused where it cannot run."""
    choose("model.attention", attention, get_args(Attention))
    if attention == "flash_attention_2":
        if device.type != "cuda" or not is_flash_attn_2_available():
            raise ModelError("model.attention=flash_attention_2 needs a CUDA device and the package flash-attn")
        if dtype == "float32":
            raise ModelError("model.attention=flash_attention_2 needs model.dtype=float16 or bfloat16")
    return attention


def choose(key: str, value: str, known: tuple[str, ...]) -> None:
    """Refuse a value that is not one of the ``known`` ones."""
    if value not in known:
        raise ModelError(f"{key}={value} is unknown; choose one of {', '.join(known)}")


def _load_weights(folder: Path, architecture: type, settings: dict) -> torch.nn.Module:
    """Load a checkpoint, refusing one whose keys leave parts of the model at their random start."""
    try:
        model, report = architecture.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, output_loading_info=True, **settings
        )
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise ModelError(f"model.path={folder} could not be loaded: {error}") from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(
            f"model.path={folder}: the weights do not fit config.json; {len(missing)} tensors are missing, "
            f"e.g. {', '.join(missing[:3])}"
        )
    if report["unexpected_keys"]:
        extra = sorted(report["unexpected_keys"])
        warnings.warn(f"model.path={folder}: {len(extra)} tensors are not used, e.g. {extra[0]}", stacklevel=2)
    return model
