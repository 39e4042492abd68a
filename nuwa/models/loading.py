"""From ``conf/model/*.yaml`` to a model that is ready to answer: check the choices and the files, load.

The options of a model are dataclasses. The YAML files are flat, so that `load_model` takes the fields of all of them.
"""

from __future__ import annotations

import functools
import importlib.util
import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

import torch

from nuwa.models import family_class, family_names
from nuwa.models.base import Family
from nuwa.models.boxes import BoxOptions
from nuwa.models.checkpoint import WEIGHTS, ModelError, check_folder, find_folder, usable
from nuwa.models.loaded import LoadedModel
from nuwa.models.processors import PictureOptions, Source
from nuwa.models.prompts import IMAGE, PromptFormat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from nuwa.models.decoder import GenerativeModel

_DECODER = re.compile(r"^(?!.*(vision|visual|mtp)).*\blayers\.\d+\..*\.(weight|bias)$")
"""A tensor of a layer of the language model."""
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Attention = Literal["sdpa", "eager", "flash_attention_2"]


@dataclass(frozen=True, kw_only=True)
class ModelOptions(PictureOptions, BoxOptions, ABC):
    """What every file of ``conf/model`` says; ``prompt`` and ``turn`` are those of a `PromptFormat`.

    ``dtype="auto"`` is float32 on a CPU and the checkpoint's own elsewhere; ``device="auto"`` is the first GPU, or the
    CPU where there is none.

    Raises:
        ModelError: a choice is unknown, or impossible on this machine.
    """

    prompt: str
    family: str = "llava"
    name: str = ""
    image: str = IMAGE
    image_joiner: str = " "
    image_end: str = "\n"
    turn: str | None = None
    dtype: Dtype = "auto"
    attention: Attention = "sdpa"
    device: str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        hints = get_type_hints(type(self)).items()
        choices = {name: get_args(hint) for name, hint in hints if get_origin(hint) is Literal}
        for name, known in {**choices, "family": family_names()}.items():
            if getattr(self, name) not in known:
                raise ModelError(f"model.{name}={getattr(self, name)} is unknown; choose one of {', '.join(known)}")
        self.resolved()

    @property
    def kind(self) -> type[Family]:
        """The family."""
        return family_class(self.family)

    def resolved(self) -> tuple[torch.device, torch.dtype | None, str]:
        """Device, dtype (None: the checkpoint's own) and kernel.

        Raises:
            ModelError: a choice is impossible on this machine.
        """
        found, cards = "cuda" if torch.cuda.is_available() else "cpu", torch.cuda.device_count()
        try:
            place = torch.device(found if self.device == "auto" else self.device)
        except RuntimeError as error:
            raise ModelError(f"model.device={self.device} is not a device (auto, cpu, cuda, cuda:0 ...)") from error
        if place.type == "meta":
            raise ModelError("model.device=meta holds no numbers; choose auto, cpu or cuda")
        if place.type == "cuda" and (place.index or 0) >= cards:
            raise ModelError(f"model.device={self.device}, but this machine has {cards} CUDA devices")
        if self.attention == "flash_attention_2":
            from transformers.utils import is_flash_attn_2_available

            if place.type != "cuda" or not is_flash_attn_2_available():
                raise ModelError("model.attention=flash_attention_2 needs a CUDA device and the package flash-attn")
            if self.dtype == "float32":
                raise ModelError("model.attention=flash_attention_2 needs model.dtype=float16 or bfloat16")
        if self.dtype == "auto":
            return place, torch.float32 if place.type == "cpu" else None, self.attention
        return place, getattr(torch, self.dtype), self.attention

    @abstractmethod
    def load(self) -> LoadedModel:
        """Make the model."""

    def completed(self, model: GenerativeModel, tokenizer: PreTrainedTokenizerFast, source: Source) -> LoadedModel:
        """A model with its pictures, made from ``source``, its videos and its prompt."""
        self.kind.adapt(model, self)
        pictures = self.kind.pictures(model.config, source, self)
        videos, shown = self.kind.video_processor(model.config, pictures, self), None
        if videos is not None and videos.placeholder not in tokenizer.get_vocab():
            videos = None  # trained without
        if videos is not None:
            around = self.image if videos.wrapped else self.kind.placeholder
            shown = around.replace(self.kind.placeholder, videos.placeholder)
        prompt = PromptFormat(self.prompt, self.image_joiner, self.image_end, self.image, shown, self.turn)
        name = self.name or str(source)
        parts = model.eval(), tokenizer, pictures, prompt, self.family, name, self, videos, self.text_after_video
        return LoadedModel(*parts)


@dataclass(frozen=True, kw_only=True)
class Checkpoint(ModelOptions):
    """Load a checkpoint from a folder, ``package:<folder inside nuwa>``, or the Hugging Face hub.

    Only safetensors are read and no code of a checkpoint is run. ``device_map="auto"`` spreads the layers over several
    GPUs.

    Raises:
        ModelError: a choice is unknown or impossible here, a file is missing or broken, or weights are missing or are
            no numbers.
    """

    path: str
    revision: str | None = None
    device_map: str | None = None

    def load(self) -> LoadedModel:
        """The model, from its files."""
        import transformers

        place, dtype, kernel = self.resolved()
        if self.device_map is not None and importlib.util.find_spec("accelerate") is None:
            raise ModelError(f"model.device_map={self.device_map} needs the package accelerate: pip install accelerate")
        folder = find_folder(self.path, self.revision)
        check_folder(folder, family_names(), self.family)
        with usable(f"{folder / 'tokenizer.json'}"):
            tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
        settings = {"dtype": dtype or "auto", "attn_implementation": kernel, "device_map": self.device_map}
        model = _load_weights(folder, getattr(transformers, self.kind.architecture), settings)
        if self.device_map is None:
            torch.nn.Module.to(model, place)
        _check_finite(folder, model)
        return self.completed(model, tokenizer, folder)


def flat(options: type[ModelOptions]) -> Callable[..., LoadedModel]:
    """A function that makes a model of the fields of ``options``, by name; its signature is theirs."""

    @functools.wraps(options, assigned=("__doc__", "__module__"), updated=())
    def load(**fields: Any) -> LoadedModel:
        return options(**fields).load()

    load.__annotations__ = get_type_hints(options)
    return load


load_model = flat(Checkpoint)
"""The ``_target_`` of checkpoints in ``conf/model``."""


@contextmanager
def _vanishing_bars() -> Iterator[None]:
    """Let a bar of transformers' leave the terminal when it is full; where there is no terminal, show none."""
    from transformers.utils.logging import set_tqdm_hook

    def vanishing(factory: Callable[..., Any], given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        return factory(*given, **named | {"leave": False, "disable": None})

    before = set_tqdm_hook(vanishing)
    try:
        yield
    finally:
        set_tqdm_hook(before)


def _load_weights(folder: Path, architecture: Any, settings: dict[str, Any]) -> GenerativeModel:
    """Load a checkpoint, refusing one whose keys leave parts of the model at their random start."""
    report_all = {"output_loading_info": True, "ignore_mismatched_sizes": True}  # to name tensors, not to accept them
    with usable(f"{folder} (config.json, {WEIGHTS})"), _vanishing_bars():
        model, report = architecture.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, **report_all, **settings
        )
    missing, extra = (sorted(report[keys]) for keys in ("missing_keys", "unexpected_keys"))
    shapes = [f"{name} {tuple(there)} for {tuple(here)}" for name, there, here in sorted(report["mismatched_keys"])]
    left = [name for name in extra if _DECODER.search(name)]
    faults = (("are missing", missing), ("are of another shape", shapes), ("of the language model are left over", left))
    for fault, names in faults:
        if names:
            some = f"{len(names)} tensors {fault}, e.g. {', '.join(names[:3])}"
            raise ModelError(f"model.path={folder}: the weights do not fit config.json; {some}")
    if extra:
        warnings.warn(f"model.path={folder}: {len(extra)} tensors are not used, e.g. {extra[0]}", stacklevel=2)
    return model


def _check_finite(folder: Path, model: GenerativeModel) -> None:
    """Refuse weights that are NaN or infinite, in one pass that makes no copy (14 GB: a second on one core).

    Quantised weights, and those that accelerate keeps elsewhere, are not looked at.
    """
    usual = (torch.float32, torch.bfloat16, torch.float16)
    found = model.named_parameters()
    weights = {
        name: weight for name, weight in found if weight.dtype in usual and not weight.is_meta and weight.numel()
    }
    whole = {name: torch.stack(torch.aminmax(weight.detach())).isfinite().all() for name, weight in weights.items()}
    broken = [name for name, finite in whole.items() if not finite]  # all are under way before the first is waited for
    if broken:
        some = f"{len(broken)} weights hold NaN or infinity, e.g. {', '.join(broken[:3])}"
        raise ModelError(f"model.path={folder}: {some}; the file is broken, or model.dtype is too narrow")
