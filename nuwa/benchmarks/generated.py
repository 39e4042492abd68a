"""What benchmarks of generated pictures and clips share: questions whose tasks take turns, and options with bounds."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nuwa.benchmarks.base import Benchmark, BenchmarkError, require_slot
from nuwa.samples import Sample

HELD_OUT = 7
"""Third word of every seed here; training never draws from it (`nuwa.scenes.scene`)."""
LARGEST = 8192  # pixels a side


@dataclass(eq=False)
class Generated(Benchmark):
    """``samples`` questions, of which each is a pure function of ``seed``, its place and the other options."""

    samples: int
    tasks: tuple[str, ...]
    seed: int

    known_tasks: ClassVar[tuple[str, ...]]
    kind: ClassVar[str]
    """The first word of every sample's id."""
    prompts: ClassVar[tuple[str, ...]] = ("prompt",)
    """Options that wrap a question, in their slot ``{question}``."""
    least: ClassVar[Mapping[str, int]] = {"samples": 1, "seed": 0}
    most: ClassVar[Mapping[str, int]] = {}

    def __post_init__(self) -> None:
        if not self.tasks or not set(self.tasks) <= set(self.known_tasks):
            raise BenchmarkError(f"dataset.tasks={list(self.tasks)}: choose from {', '.join(self.known_tasks)}")
        for key, bound in self.least.items():
            if getattr(self, key) < bound:
                raise BenchmarkError(f"dataset.{key}={getattr(self, key)} must be at least {bound}")
        for key, bound in self.most.items():
            if getattr(self, key) > bound:
                raise BenchmarkError(f"dataset.{key}={getattr(self, key)} must be at most {bound}")
        for key in self.prompts:
            require_slot(key, getattr(self, key), "{question}")

    def __len__(self) -> int:
        return self.samples

    def sample_id(self, index: int) -> str:
        return f"{self.kind}-{self.seed}-{index}-{self.task_of(index)}"

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.samples:
            raise IndexError(index)
        return self.draw(index)

    @abstractmethod
    def draw(self, index: int) -> Sample:
        """Make sample ``index``, which is there."""

    def task_of(self, index: int) -> str:
        """The task of sample ``index``."""
        return self.tasks[index % len(self.tasks)]


def enlarged(pixels: NDArray[np.uint8], side: int) -> Image.Image:
    """Pixels (height, width, 3) as a square picture of ``side`` pixels, without smoothing."""
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST)
