"""Does the engine keep its laws on this device? Small random models of every family, in float32 and half precision.

Used by `on_gpu.sh`. Kernels may sum in another order for another shape, so that beside "equal" there is a largest
difference: of the logits of the prompts' last tokens, relative to their spread.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from throughput import compose
from torch import Tensor
from transformers.utils import is_flash_attn_2_available

import nuwa
from nuwa.evaluation.check import check
from nuwa.evaluation.model_cache import load_once
from nuwa.models.loaded import LoadedModel
from nuwa.pruners.base import Pruner

FAMILIES = ("llava_1_5_random", "llava_next_random", "llava_onevision_random", "qwen2_5_vl_random")
METHODS = ("nuwa", "visionzip", "fastv", "divprune", "sparsevlm")
QUESTIONS, STEPS = 3, 6


def laws(small: bool = False) -> Iterator[dict[str, str]]:
    """A row for every family, dtype, kernel and method."""
    cuda = torch.cuda.is_available()
    settings = [("float32", "sdpa"), ("bfloat16", "sdpa")]
    settings += [("bfloat16", "flash_attention_2")] if cuda and is_flash_attn_2_available() else []
    for family in FAMILIES[:1] if small else FAMILIES:
        for dtype, kernel in settings[:1] if small else settings:
            overrides = [f"model={family}", f"model.dtype={dtype}", f"model.attention={kernel}", "budget=ratio25"]
            parts = check(compose("unused", *overrides))
            loaded = load_once(parts.model)
            samples = [parts.benchmark[index] for index in range(QUESTIONS)]
            batch, alone = loaded.encode(samples), [loaded.encode([sample]) for sample in samples]
            names = {"family": family, "dtype": dtype, "kernel": kernel}
            yield {**names, "method": "none", **keep_all(loaded, batch)}
            for method in METHODS[:1] if small else METHODS:
                pruner = check(compose("unused", *overrides, f"pruner={method}")).pruner
                yield {**names, "method": method, **pruned(loaded, pruner, batch, alone)}


def last_logits(loaded: LoadedModel, inputs: dict[str, Tensor]) -> Tensor:
    """Logits (B, V) of the prompts' last tokens."""
    return loaded.model(**inputs, logits_to_keep=1).logits[:, -1].float()


def distance(one: Tensor, other: Tensor) -> str:
    """The largest difference over the spread of the second."""
    return f"{float((one - other).abs().max() / other.std()):.1e}"


@torch.no_grad()
def keep_all(loaded: LoadedModel, batch: dict[str, Tensor]) -> dict[str, str]:
    """A session that keeps everything changes no bit."""
    expected = last_logits(loaded, batch)
    with nuwa.prune(loaded.model, nuwa.load_pruner("none")):
        found = last_logits(loaded, batch)
    same = "equal" if torch.equal(found, expected) else "NOT equal"
    return {"keep-all": same, "rows alone": "", "cached": "", "chosen on the CPU": ""}


@torch.no_grad()
def pruned(
    loaded: LoadedModel, pruner: Pruner, batch: dict[str, Tensor], alone: list[dict[str, Tensor]]
) -> dict[str, str]:
    """A batch against its rows alone, a cache against none, and the tokens that the CPU chooses in float32."""
    options = {"max_new_tokens": STEPS, "do_sample": False}
    with nuwa.prune(loaded.model, pruner) as session:
        rows = torch.cat([last_logits(loaded, inputs) for inputs in alone])
        together = last_logits(loaded, batch)
        kept = tokens(session)
        cached = loaded.model.generate(**batch, **options)
        uncached = loaded.model.generate(**batch, **options, use_cache=False)
    device, dtype = loaded.model.device, loaded.model.dtype
    try:
        with nuwa.prune(loaded.model.to("cpu", torch.float32), pruner) as session:
            last_logits(loaded, {name: value.cpu() for name, value in batch.items()})
            expected = tokens(session)
    finally:
        loaded.model.to(device, dtype)
    common = sum(len(a & b) for a, b in zip(kept, expected, strict=True)) / sum(map(len, expected))
    return {
        "keep-all": "",
        "rows alone": distance(together, rows),
        "cached": "same tokens" if torch.equal(cached, uncached) else "other tokens",
        "chosen on the CPU": f"{common:.1%}",
    }


def tokens(session: Any) -> list[set[tuple[int, int]]]:
    """What each image of the last call kept, as (layer from which on, token)."""
    images = session.report().images
    return [{(layer, token) for layer, kept, _ in image.stages for token in kept} for image in images]
