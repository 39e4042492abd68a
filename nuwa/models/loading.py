"""From ``conf/model/*.yaml`` to a model that is ready to answer: check the files, load, encode, decode."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.utils import is_flash_attn_2_available

from nuwa.benchmarks.base import Sample, to_rgb
from nuwa.models.checkpoint import ModelError, check_folder, find_folder
from nuwa.models.prompts import IMAGE, PromptFormat, expand_images

FAMILIES = {"llava": LlavaForConditionalGeneration}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Attention = Literal["sdpa", "eager", "flash_attention_2"]
ImageFrame = Literal["pad", "crop", "folder"]


@dataclass
class LoadedModel:
    """A model with everything between a `Sample` and its tensors, and between token ids and text."""

    model: torch.nn.Module
    tokenizer: PreTrainedTokenizerBase
    image_processor: LlavaImageProcessorPil
    prompt: PromptFormat
    family: str
    name: str

    def __post_init__(self) -> None:
        config = self.model.config
        found = self.tokenizer.convert_tokens_to_ids(IMAGE)
        if found != config.image_token_id:
            raise ModelError(
                f"model {self.name}: {IMAGE} is token {found} in tokenizer.json, {config.image_token_id} in config.json"
            )
        rows = self.model.get_input_embeddings().weight.shape[0]
        if len(self.tokenizer) > rows:
            raise ModelError(f"model {self.name}: the tokenizer has {len(self.tokenizer)} tokens, the model {rows}")
        if self.model.generation_config.pad_token_id is None:
            self.model.generation_config.pad_token_id = self.pad_id

    @property
    def device(self) -> torch.device:
        """Where inputs go: the device of the embeddings, also when the layers are spread over several."""
        return self.model.get_input_embeddings().weight.device

    @property
    def pad_id(self) -> int:
        """Token that fills up short rows; masked, so its value never matters."""
        return next(i for i in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, 0) if i is not None)

    @property
    def tokens_per_image(self) -> int:
        """Placeholders per picture: the patches, and the CLS token if the model's config keeps it."""
        vision = self.model.config.vision_config
        patches = (vision.image_size // vision.patch_size) ** 2
        return patches + (self.model.config.vision_feature_select_strategy == "full")

    def encode(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Tensors of a batch on the model's device.

        ``input_ids`` and ``attention_mask`` (B, L) int64, left-padded; ``pixel_values`` (M, 3, S, S) in the model's
        dtype, the M pictures of all samples in order, and absent if there are none.
        """
        rows = [self._token_ids(sample) for sample in samples]
        length = max(len(row) for row in rows)
        ids = torch.full((len(rows), length), self.pad_id)
        mask = torch.zeros_like(ids)
        for index, row in enumerate(rows):
            ids[index, length - len(row) :] = torch.tensor(row)
            mask[index, length - len(row) :] = 1
        batch = {"input_ids": ids.to(self.device), "attention_mask": mask.to(self.device)}
        pictures = [to_rgb(image) for sample in samples for image in sample.images]
        if pictures:
            pixels = self.image_processor(pictures, return_tensors="pt")["pixel_values"]
            batch["pixel_values"] = pixels.to(self.device, self.model.dtype)
        return batch

    def decode(self, ids: Tensor, prompt_length: int) -> list[str]:
        """The answers in ``ids`` (B, L) as `generate` returns them, the prompt cut off: B stripped strings."""
        texts = self.tokenizer.batch_decode(ids[:, prompt_length:].tolist(), skip_special_tokens=True)
        return [text.strip() for text in texts]

    def _token_ids(self, sample: Sample) -> list[int]:
        """The prompt's ids. The first token is put in front by hand: tokenizers differ in whether they add it."""
        prompt = expand_images(self.prompt.render(sample.text, len(sample.images)), self.tokens_per_image)
        ids = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        return ids if self.tokenizer.bos_token_id is None else [self.tokenizer.bos_token_id, *ids]


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
    image_frame: ImageFrame = "pad",
    image_joiner: str = " ",
    image_end: str = "\n",
) -> LoadedModel:
    """Load a checkpoint from a folder, ``package:<folder inside nuwa>``, or the Hugging Face hub.

    Only safetensors are read and no code of a checkpoint is run. ``dtype="auto"`` is float32 on a CPU and the
    checkpoint's own elsewhere. ``image_frame`` says how a picture becomes a square: ``pad`` it with the mean colour as
    LLaVA-1.5 was trained, ``crop`` its centre as Hugging Face processors do, or as the ``folder`` says.

    Raises:
        ModelError: a choice is unknown or impossible here, a file is missing or broken, or weights are missing.
    """
    prompt_format = PromptFormat(prompt, image_joiner, image_end)
    choose("model.image_frame", image_frame, get_args(ImageFrame))
    place = resolve_device(device)
    settings = {"dtype": resolve_dtype(dtype, place), "attn_implementation": resolve_attention(attention, dtype, place)}
    if device_map is not None and importlib.util.find_spec("accelerate") is None:
        raise ModelError(f"model.device_map={device_map} needs the package accelerate: pip install accelerate")
    choose("model.family", family, tuple(FAMILIES))
    folder = find_folder(path, revision)
    check_folder(folder, (family,))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    model = _load_weights(folder, FAMILIES[family], settings | {"device_map": device_map})
    if device_map is None:
        model = model.to(place)
    processor = load_image_processor(folder, image_frame, model.config.vision_config.image_size)
    return LoadedModel(model.eval(), tokenizer, processor, prompt_format, family, name or path)


def load_image_processor(folder: Path, frame: str, size: int) -> LlavaImageProcessorPil:
    """PIL processor with the folder's mean and std; ``frame`` as in `load_model`, the result ``size`` x ``size``."""
    if frame == "folder":
        return LlavaImageProcessorPil.from_pretrained(folder, local_files_only=True)
    shape = {"do_resize": True, "size": {"shortest_edge": size}, "crop_size": {"height": size, "width": size}}
    return LlavaImageProcessorPil.from_pretrained(
        folder, local_files_only=True, do_pad=frame == "pad", do_center_crop=True, **shape
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
