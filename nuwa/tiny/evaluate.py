"""Accuracy of a saved tiny model on held-out scenes, loaded and asked as `launch.py` does."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from nuwa.benchmarks.scenes import Scenes
from nuwa.config import build
from nuwa.models.loading import LoadedModel
from nuwa.pruners.catalogue import conf_folder
from nuwa.samples import Sample

RIGHT = {"vqa": "vqa/exact_match", "vg": "vg/acc@0.5"}
"""The metric of each task that is 1 for a right answer."""


@dataclass(frozen=True)
class KindAccuracy:
    """Share of right answers of one kind of question; ``error`` is its standard error."""

    kind: str
    right: int
    asked: int

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return self.right / self.asked

    @property
    def error(self) -> float:
        """Binomial standard error of the accuracy."""
        return (self.accuracy * (1 - self.accuracy) / self.asked) ** 0.5


def load_tiny(folder: Path, name: str) -> LoadedModel:
    """The weights in ``folder`` with the prompt and picture settings of ``conf/model/tiny_<name>.yaml``, in fp32."""
    options: Any = OmegaConf.to_container(OmegaConf.load(conf_folder() / "model" / f"tiny_{name}.yaml"))
    return build(options | {"path": str(folder), "device": "cpu", "dtype": "float32"})


@torch.no_grad()
def answer(loaded: LoadedModel, samples: list[Sample], limit: int, batch: int = 20) -> list[str]:
    """Greedy answers of at most ``limit`` tokens."""
    answers = []
    for start in range(0, len(samples), batch):
        inputs = loaded.encode(samples[start : start + batch])
        output = loaded.model.generate(**inputs, max_new_tokens=limit, do_sample=False)
        answers += loaded.decode(output, inputs["input_ids"].shape[1])
    return answers


def evaluate(folder: Path, name: str, task: str, count: int, seed: int = 0) -> list[KindAccuracy]:
    """Scores of the checkpoint in ``folder``: all questions of ``task`` first, then kind by kind."""
    scenes, loaded = Scenes(count, (task,), seed), load_tiny(folder, name)
    samples = [scenes[index] for index in range(count)]
    answers = answer(loaded, samples, scenes.max_new_tokens(task))
    right: dict[str, list[int]] = {}
    for sample, text in zip(samples, answers, strict=True):
        hit = scenes.score(sample, loaded.in_unit_frame(text, sample.images[0]))[RIGHT[task]]
        right.setdefault(sample.meta["kind"], []).append(int(hit))
    everything = [hit for hits in right.values() for hit in hits]
    kinds = [KindAccuracy(kind, sum(hits), len(hits)) for kind, hits in sorted(right.items())]
    return [KindAccuracy(task, sum(everything), len(everything)), *kinds]
