"""result.json: what a run found and everything needed to trust it. Written last, in one step."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from nuwa.evaluation.journal import Row
from nuwa.pruners.base import Pruner
from nuwa.pruning.budget import ModelShape, Schedule, average_entering, average_leaving, kv_cache_bytes, llm_flops

RESULT = "result.json"
PACKAGES = ("nuwa-vlm", "torch", "transformers", "lightning", "hydra-core", "numpy", "pillow", "wandb")


def read_result(folder: Path) -> dict[str, Any] | None:
    """The result in a run's folder, None if there is none that can be read."""
    try:
        return json.loads((Path(folder) / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


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


def images_per_layer(rows: Sequence[Row], layers: int) -> list[list[int]]:
    """Visual tokens entering each layer, for every image of the rows, from the stages that the journal holds."""
    images = []
    for row in rows:
        for (_, vision), *later in row["kept"]:
            images.append(Schedule(vision, tuple((layer, count) for layer, count in later)).per_layer(layers))
    return images


def costs(rows: Sequence[Row], pruner: Pruner, shape: ModelShape, value_bytes: int) -> dict[str, Any]:
    """What the visual tokens of an image cost, as measured: means over all images of the rows.

    ``llm_tflops`` and ``metric_mflops`` follow the Nüwa paper (Appendix C, Table 4), visual tokens only.
    """
    images = images_per_layer(rows, shape.layers)
    if not images:
        return {}
    per_layer = [sum(counts) / len(images) for counts in zip(*images, strict=True)]
    tokens = [count for row in rows for count in row["image_tokens"]]
    return {
        "tokens_per_layer": per_layer,
        "tokens_entering": average_entering(per_layer),
        "tokens_leaving": average_leaving(per_layer),
        "tokens_per_image": sum(tokens) / len(tokens),
        "llm_tflops": sum(llm_flops(image, shape) for image in images) / len(images) / 1e12,
        "metric_mflops": sum(pruner.metric_flops(count, shape) for count in tokens) / len(tokens) / 1e6,
        "kv_cache_bytes": kv_cache_bytes(per_layer, shape, value_bytes),
    }


def environment(model: torch.nn.Module) -> dict[str, Any]:
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


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


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
