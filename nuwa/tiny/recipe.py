"""A training recipe: stages, rates and loss weights, read from ``recipe_<model>.yaml``."""

import math
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from nuwa.scenes.scene import IMAGE_SIZE


@dataclass(frozen=True)
class TrainingStage:
    """One stage of the recipe; see the comments in recipe_llava.yaml.

    ``size``, ``objects`` and ``grounding`` are for scenes: clips and plates have one size and numbers of their own.
    """

    name: str
    steps: int
    batch: int
    questions: int
    lr: tuple[float, float]
    vision_lr: float
    weights: dict[str, float]
    size: int = IMAGE_SIZE
    objects: tuple[int, int] = (3, 7)
    grounding: float = 0.0
    mix: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """A whole recipe file."""

    seed: int
    muon_lr: float
    adam_lr: float
    warmup: int
    number_sigma: float
    position_tap: int
    align_tap: int
    attention_layers: dict[str, list[int]]
    stages: list[TrainingStage]

    @classmethod
    def load(cls, path: Path) -> "Recipe":
        """Read a recipe file."""
        values = yaml.safe_load(path.read_text())
        values["stages"] = [TrainingStage(**stage) for stage in values["stages"]]
        return cls(**values)

    @property
    def steps(self) -> int:
        """Steps of all stages together."""
        return sum(stage.steps for stage in self.stages)

    def stage_at(self, step: int) -> tuple[TrainingStage, int]:
        """The stage that ``step`` belongs to and the number of steps done in it."""
        for stage in self.stages:
            if step < stage.steps:
                return stage, step
            step -= stage.steps
        raise IndexError("the step is after the end of the recipe")

    def rate(self, step: int) -> float:
        """Learning-rate factor at ``step`` of the run: warm-up at the start of its stage, then a cosine over it."""
        stage, done = self.stage_at(step)
        start, end = stage.lr
        cosine = 0.5 * (1 + math.cos(math.pi * done / stage.steps))
        return min(1.0, (done + 1) / self.warmup) * (end + (start - end) * cosine)
