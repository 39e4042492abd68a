"""The contract of a benchmark: rows become samples, a model's text becomes numbers.

A benchmark is built before any model loads, so its constructor refuses what can never work (`BenchmarkError`), while a
single bad row only fails itself (`SampleError`). It is picklable: data-loader workers hold a copy.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Self

import numpy as np
from PIL import Image

Scores = dict[str, float]
"""Metric name -> value, e.g. ``{"vqa/exact_match": 1.0}``."""


class _Refusal(ValueError):
    """A reason that can be written, whatever it quotes."""

    def __init__(self, reason: str):
        super().__init__(spelt_out(reason))


class BenchmarkError(_Refusal):
    """The benchmark cannot be built at all; the message names the config key to change."""


class SampleError(_Refusal):
    """One sample cannot be used (unreadable image, malformed row), the message says why; a run records it, goes on."""


def spelt_out(text: str) -> str:
    """Text that can be written: lone surrogates, which JSON can hold and UTF-8 cannot, become their escapes."""
    return text.encode(errors="backslashreplace").decode()


@dataclass(frozen=True)
class Sample:
    """One question to a model.

    ``text`` is the user's turn with the task's prompt, without image placeholders. ``target`` is whatever the
    benchmark's ``score`` compares with: accepted answers (tuple of strings) for ``task="vqa"``, a box
    (x0, y0, x1, y1) in 0..1 of the original picture for ``task="vg"``. ``meta`` holds JSON-able facts worth recording.
    ``expression`` is what to find, alone, for models that are asked for boxes in words of their own.
    """

    id: str
    task: str
    images: tuple[Image.Image, ...]
    text: str
    target: object
    meta: Mapping[str, object] = field(default_factory=dict)
    expression: str | None = None

    @property
    def image_ids(self) -> list[str]:
        """A name for every picture, by which methods that draw at random draw the same in any batch."""
        if len(self.images) == 1:
            return [self.id]
        return [f"{self.id}#{number}" for number in range(len(self.images))]


class Benchmark(ABC):
    """A sequence of samples and the way they are scored."""

    name: str
    source: str | None = None
    """Where its rows were read, with their version if they have one."""
    unit_box_tasks: ClassVar[tuple[str, ...]] = ("vg",)
    """Tasks whose answers are boxes as fractions of one picture; answers in pixels are rewritten before scoring."""

    @classmethod
    def unloaded(cls, options: Mapping[str, object]) -> Self:
        """A benchmark that has its options but no data: it can sum up journals (`metrics`), and nothing else."""
        benchmark = object.__new__(cls)
        vars(benchmark).update(options)
        return benchmark

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples."""

    @abstractmethod
    def sample_id(self, index: int) -> str:
        """The id of a sample: unique, stable between runs, and found without decoding its image."""

    def neighbourhood(self, index: int) -> tuple[str, int]:
        """A name for what sample ``index`` shows, and how long its question is: found without decoding its pictures.

        Samples about the same pictures are computed together, and such of like length.
        """
        return self.sample_id(index), 0

    @abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """Make sample ``index``.

        Raises:
            SampleError: this sample cannot be used.
        """

    @abstractmethod
    def score(self, sample: Sample, prediction: str) -> Scores:
        """The sample's metrics, given the model's text."""

    @abstractmethod
    def max_new_tokens(self, task: str) -> int:
        """How many tokens an answer of ``task`` may take."""

    def take(self, limit: int | None) -> int:
        """How many samples a run that is limited to ``limit`` computes (None: all); they are the first ones."""
        return len(self) if limit is None else min(limit, len(self))

    def metrics(self, rows: Sequence[Mapping]) -> Scores:
        """The numbers that are printed, from journal rows: ``scores``, ``target``, ``prediction`` of every sample."""
        return self.numbers(mean_scores(self.units(rows)))

    def units(self, rows: Sequence[Mapping]) -> list[Scores]:
        """What is averaged, by name: the rows' scores, unless more than they or samples together make the numbers.

        Rows of one group (``meta["group"]``) give the same units whichever other rows stand beside them.
        """
        return [row["scores"] for row in rows]

    def numbers(self, means: Scores) -> Scores:
        """The printed numbers, from means over the units that have a score of that name; the first is the headline."""
        return means


def mean_scores(units: Iterable[Scores]) -> Scores:
    """Mean of every score over the units that have it, in the order in which they first appear."""
    values: dict[str, list[float]] = defaultdict(list)
    for unit in units:
        for name, value in unit.items():
            values[name].append(float(value))
    return {name: sum(column) / len(column) for name, column in values.items()}


def to_rgb(image: Image.Image) -> Image.Image:
    """Any PIL mode to 8-bit RGB. Alpha is dropped, as LLaVA does; 16-bit grey is scaled, which PIL alone would clip."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image).astype(np.int64).clip(0, 65535) // 256).astype(np.uint8))
    return image if image.mode == "RGB" else image.convert("RGB")
