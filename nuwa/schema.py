"""The options of a job that build no object, with types and ranges: one dataclass for each group of conf/.

OmegaConf checks the types while a config is composed, `nuwa.evaluation.check` the ranges.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated, Any, Optional

from pydantic import Field

Positive = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Baseline = Enum("Baseline", ["auto", "skip"])
OnError = Enum("OnError", ["record", "raise"])
LoggerKind = Enum("LoggerKind", ["wandb", "csv", "tensorboard", "none"])
Accelerator = Enum("Accelerator", ["auto", "cpu", "gpu"])
Engine = Enum("Engine", ["transformers", "vllm"])


@dataclass
class BudgetConfig:
    """conf/budget: how many visual tokens an image may cost, as a mean over LLM layers or as a share.

    ``samples``: on how many samples a budget is fitted to a method that lets images decide (`nuwa.evaluation.fitting`).
    """

    average: Optional[Finite] = None  # noqa: UP045 (OmegaConf reads this form on every Python)
    ratio: Optional[Finite] = None  # noqa: UP045
    samples: Positive = 64


@dataclass
class PositionConfig:
    """conf/position: which ids the surviving tokens have, and what merged ones have of Qwen3-VL's deepstack planes."""

    strategy: str = "native"
    deepstack: str = "merged"  # merged: the planes' rows merged alike | kept: the kept rows' own


@dataclass
class CalibrationConfig:
    """conf/calibration: how merged tokens weigh in attention (`nuwa.pruning.calibration`)."""

    kind: str = "native"


@dataclass
class CoordinatesConfig:
    """conf/coordinates: what share of the kept tokens stays because of where it stands (`nuwa.pruning.coordinates`)."""

    kind: str = "none"
    share: float = 0.1


@dataclass
class FramesConfig:
    """conf/frames: which frames of a video a model sees, and at which times (`nuwa.benchmarks.frames`)."""

    count: Positive = 32
    fps: Optional[Annotated[Finite, Field(gt=0)]] = None  # noqa: UP045
    spacing: Annotated[str, Field(pattern="^(linspace|arange)$")] = "linspace"
    time: Annotated[str, Field(pattern="^(absolute|constant)$")] = "absolute"


@dataclass
class BlockingConfig:
    """conf/blocking: who loses sight of the image (vision, text, last), in which layers (``8-15`` or ``2/4``)."""

    source: Optional[str] = None  # noqa: UP045
    layers: str = "1/1"


@dataclass
class GenerationConfig:
    """conf/generation: how an answer is decoded; ``max_new_tokens`` null leaves it to the benchmark."""

    do_sample: bool = False
    num_beams: Annotated[int, Field(ge=1, le=64)] = 1
    temperature: Annotated[Finite, Field(gt=0)] = 1.0
    top_p: Annotated[Finite, Field(gt=0, le=1)] = 1.0
    max_new_tokens: Optional[Positive] = None  # noqa: UP045


@dataclass
class ProbeConfig:
    """conf/probe: what is measured besides the answers (`nuwa.evaluation.speed`)."""

    memory: bool = False
    speed: bool = False
    batch_sizes: Annotated[list[Positive], Field(min_length=1)] = field(default_factory=lambda: [1])
    new_tokens: Positive = 16
    warmup: Natural = 2
    repeats: Positive = 9


@dataclass
class TrainerConfig:
    """conf/trainer: where, in what portions and with what shortcuts to compute.

    None of it changes a result, but for ``batch_size`` where tokens are drawn at random, and ``engine``, whose kernels
    round otherwise. ``vllm``: further arguments of ``vllm.LLM``.
    """

    accelerator: Accelerator = Accelerator.auto
    devices: Optional[Positive] = 1  # noqa: UP045
    num_nodes: Positive = 1
    batch_size: Positive = 8
    num_workers: Annotated[int, Field(ge=0, le=256)] = 0
    prefetch: Annotated[int, Field(ge=0, le=256)] = 2
    share: bool = True
    cache_gb: Optional[Annotated[Finite, Field(ge=0)]] = None  # noqa: UP045
    engine: Engine = Engine.transformers
    vllm: dict[str, Any] = field(default_factory=dict)


@dataclass
class LoggerConfig:
    """conf/logger: where metrics go besides the run folder."""

    kind: LoggerKind = LoggerKind.wandb
    project: str = "nuwa"
    entity: Optional[str] = None  # noqa: UP045
    offline: bool = True
    table_rows: Natural = 200


@dataclass
class CallbacksConfig:
    """conf/callbacks: what is shown while and after a run."""

    progress: bool = True
    pictures: Natural = 4


@dataclass
class PathsConfig:
    """conf/paths: where things lie on this machine."""

    outputs: str = "outputs"
    features: str = "${paths.outputs}/.features"


@dataclass
class Config:
    """One job, as conf/config.yaml composes it."""

    name: str = "main"
    seed: Natural = 0
    limit: Optional[Positive] = None  # noqa: UP045
    resume: bool = True
    baseline: Baseline = Baseline.auto
    on_error: OnError = OnError.record
    tags: list[str] = field(default_factory=list)
    model: dict[str, Any] = field(default_factory=dict)
    pruner: dict[str, Any] = field(default_factory=dict)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    position: PositionConfig = field(default_factory=PositionConfig)
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    coordinates: CoordinatesConfig = field(default_factory=CoordinatesConfig)
    dataset: dict[str, Any] = field(default_factory=dict)
    frames: FramesConfig = field(default_factory=FramesConfig)
    blocking: BlockingConfig = field(default_factory=BlockingConfig)
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    callbacks: CallbacksConfig = field(default_factory=CallbacksConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)
