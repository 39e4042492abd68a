"""Finding a checkpoint and checking its files before a single weight is read, so that what is wrong is said by name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open

from nuwa.files import PACKAGE, local_path

MODEL = "model.path"
"""The config key that names a checkpoint, if no other does."""

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
GENERATION = "generation_config.json"
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


class ModelError(ValueError):
    """A model cannot be loaded as asked; the message names the config key."""


def find_folder(path: str, revision: str | None = None, key: str = MODEL) -> Path:
    """The local folder of a checkpoint that the config names under ``key``.

    ``path`` is a folder, ``package:<folder inside nuwa>``, or a Hugging Face id, whose configs and safetensors are then
    fetched into the hub's cache (never pickled weights, never code).

    Raises:
        ModelError: there is no such folder, and no such id in the cache or on the hub.
    """
    from huggingface_hub import snapshot_download

    folder = local_path(path)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise ModelError(f"{key}={path} is a file; give the folder that holds it")
    if path.startswith(PACKAGE) or not _HUB_ID.fullmatch(path) or path.startswith("."):
        raise ModelError(f"{key}={path}: the folder {folder} does not exist")
    try:
        return Path(snapshot_download(path, revision=revision, allow_patterns=["*.json", "*.safetensors"]))
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"{key}={path}: no such folder here, and the Hugging Face id (revision {revision}) could not be fetched: "
            f"{reason}"
        ) from error


def check_folder(folder: Path, families: tuple[str, ...], asked: str | None = None) -> dict:
    """Check that a folder holds a whole checkpoint of a supported family and return its ``config.json``.

    Raises:
        ModelError: a file is missing, is not what its name says, or the architecture is not supported, or not the one
            that was ``asked`` for.
    """
    config = read_json(folder / "config.json")
    family = config.get("model_type")
    if family not in families:
        known = ", ".join(families)
        named = ", ".join(config.get("architectures") or [str(family)])
        raise ModelError(
            f"model.path={folder}: the architecture {named} (model_type {family}) is not supported; supported: {known}"
        )
    if asked not in (None, family):
        raise ModelError(f"model.family={asked}, but the config.json of model.path={folder} says {family}")
    read_json(folder / "tokenizer.json")
    for name in (GENERATION, *PROCESSOR_FILES):  # transformers would do without one that cannot be read
        if (folder / name).is_file():
            read_json(folder / name)
    if not any((folder / name).is_file() for name in PROCESSOR_FILES):
        raise ModelError(f"model.path={folder} lacks {PROCESSOR_FILES[0]}, which says how pictures are normalised")
    for file in weight_files(folder):
        check_safetensors(file)
    return config


@contextmanager
def usable(what: str) -> Iterator[None]:
    """Name the file whose content transformers cannot use, whatever it raises."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"{MODEL}: {what} cannot be used ({type(error).__name__}: {error})") from error


def weight_files(folder: Path, key: str = MODEL) -> list[Path]:
    """The safetensors files of a checkpoint, one or the shards that its index names."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        shards = sorted(set(read_json(folder / INDEX, key).get("weight_map", {}).values()))
        if not shards or any(Path(shard).name != shard for shard in shards):
            raise ModelError(f"{key}={folder}: {INDEX} names no usable shards")
        return [folder / shard for shard in shards]
    pickled = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in folder.glob(pattern))
    hint = f"; {pickled[0]} is pickled, which is not loaded: convert it to safetensors" if pickled else ""
    raise ModelError(f"{key}={folder} lacks {WEIGHTS}{hint}")


def check_safetensors(file: Path, key: str = MODEL) -> None:
    """Read a file's header, which also tells whether the file is as long as its tensors need.

    Raises:
        ModelError, OSError: it is missing or broken, or may not be read.
    """
    if not file.is_file():
        raise ModelError(f"{key}={file.parent} lacks {file.name}")
    file.open("rb").close()  # safetensors says of a file that may not be read that it is not there
    try:
        with safe_open(file, framework="pt") as content:
            content.keys()
    except (SafetensorError, OSError) as error:
        size = file.stat().st_size
        raise ModelError(f"{key}: {file} ({size} bytes) is truncated or is not a safetensors file: {error}") from error


def read_json(file: Path, key: str = MODEL) -> dict:
    """A JSON object from a file of the checkpoint."""
    if not file.is_file():
        raise ModelError(f"{key}={file.parent} lacks {file.name}")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{key}: {file} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{key}: {file} must hold a JSON object")
    return content
