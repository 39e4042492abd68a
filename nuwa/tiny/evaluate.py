"""Accuracy of a saved tiny model on held-out scenes or clips, loaded and asked as `launch.py` does."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from nuwa.config import build
from nuwa.models.loading import LoadedModel
from nuwa.pruners.catalogue import conf_folder
from nuwa.tiny.shipped import TINY_MODELS

RIGHT = {"vg": "vg/acc@0.5"}
"""The metric of a task that is 1 for a right answer, where it is not its ``exact_match``."""


def load_tiny(folder: Path, name: str) -> LoadedModel:
    """The weights in ``folder`` with the prompt and picture settings of ``conf/model/tiny_<name>.yaml``, in fp32."""
    options: Any = OmegaConf.to_container(OmegaConf.load(conf_folder() / "model" / f"tiny_{name}.yaml"))
    return build(options | {"path": str(folder), "device": "cpu", "dtype": "float32"})


@torch.no_grad()
def evaluate(folder: Path, name: str, task: str, count: int, **options: Any) -> dict[str, list[bool]]:
    """Which greedy answers of the checkpoint in ``folder`` are right: all of ``task``, then each of several kinds.

    ``options`` are the benchmark's.
    """
    benchmark: Any = TINY_MODELS[name].benchmark
    held_out = benchmark(count, (task,), **options)
    loaded, metric = load_tiny(folder, name), RIGHT.get(task, f"{task}/exact_match")
    right: dict[str, list[bool]] = defaultdict(list)
    samples = [held_out[index] for index in range(count)]
    for batch in (samples[start : start + 20] for start in range(0, count, 20)):
        inputs = loaded.encode(batch)
        ids = loaded.model.generate(**inputs, max_new_tokens=held_out.max_new_tokens(task), do_sample=False)
        for sample, text in zip(batch, loaded.decode(ids, inputs["input_ids"].shape[1]), strict=True):
            text = loaded.in_unit_frame(text, sample.images[0]) if sample.images else text
            right[sample.meta.get("part", sample.meta["kind"])].append(bool(held_out.score(sample, text)[metric]))
    kinds = sorted(right.items()) if len(right) > 1 else ()
    return {task: [hit for hits in right.values() for hit in hits], **dict(kinds)}
