"""result.json: what a run found and everything needed to trust it. Written last, in one step."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import TypeAdapter

from nuwa.evaluation.reading import UnreadableError, check_shape, content_of, from_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

RESULT = "result.json"
_OBJECT = TypeAdapter(dict[str, Any])
PACKAGES = ("nuwa-vlm", "torch", "transformers", "lightning", "hydra-core", "numpy", "pillow", "wandb")


def read_result(folder: Path) -> dict[str, Any]:
    """The content of a run's result.json as it is; `nuwa.evaluation.runs.Run.read` is for all that only reads.

    Raises:
        UnreadableError: there is none, or it is no JSON object.
    """
    path = Path(folder) / RESULT
    try:
        content = from_json(content_of(path))
        check_shape(content, _OBJECT)
    except ValueError as error:
        raise UnreadableError(path, str(error)) from error
    return content


def write_result(folder: Path, result: dict[str, Any]) -> None:
    """Put ``result`` in place in one step: a reader sees the whole file or none."""
    folder = Path(folder)
    temporary = folder / f".{RESULT}.{os.getpid()}"
    try:
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(result, file, indent=1, ensure_ascii=False, default=str)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(folder / RESULT)
    finally:
        temporary.unlink(missing_ok=True)


def environment(model: PreTrainedModel) -> dict[str, Any]:
    """Versions, device, kernel and commit: what else a number may depend on."""
    device = next(model.parameters()).device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "packages": {package: _version(package) for package in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": f"{device.type}: {name}",
        "threads": torch.get_num_threads(),
        "dtype": str(model.dtype).removeprefix("torch."),
        "attention": getattr(model.config.get_text_config(), "_attn_implementation", None),
        "git_commit": _commit(),
    }


@cache
def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@cache
def _commit() -> str | None:
    """The commit this code was checked out from, with ``-dirty`` if it was edited; None outside a repository."""
    here = Path(__file__)

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # an installed copy inside another repository has no commit
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--", "..") else "")
    except (OSError, subprocess.SubprocessError):
        return None
