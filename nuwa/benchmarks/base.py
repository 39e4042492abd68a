"""The contract of a benchmark: rows become samples, a model's text becomes numbers.

A benchmark is built before any model loads, so its constructor refuses what can never work (`BenchmarkError`), while a
single bad row only fails itself (`SampleError`). It is picklable: data-loader workers hold a copy.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self

from nuwa.samples import Refusal, Sample

Doc = dict[str, Any]
"""The columns of a row that a prompt or a score depends on."""
Scores = dict[str, float]
"""Metric name -> value, e.g. ``{"vqa/exact_match": 1.0}``."""


class BenchmarkError(Refusal):
    """The benchmark cannot be built at all; the message names the config key to change."""


class SourceError(OSError):
    """Rows cannot be reached now, as without network: a run stops, keeps what it has, and goes on when called again."""


class Benchmark(ABC):
    """A sequence of samples and the way they are scored."""

    name: str
    source: str | None = None
    """Where its rows come from, with their version if they have one."""
    unit_box_tasks: ClassVar[tuple[str, ...]] = ("vg",)
    """Tasks whose answers are boxes as fractions of one picture; answers in pixels are rewritten before scoring."""

    @classmethod
    def unloaded(cls, options: Mapping[str, object]) -> Self:
        """A benchmark with options but without data: all it can do is score documents and sum up journals."""
        benchmark = object.__new__(cls)
        vars(benchmark).update(options)
        return benchmark

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples."""

    @abstractmethod
    def sample_id(self, index: int) -> str:
        """The id of a sample: unique, the same in every run, and known without decoding its picture."""

    def neighbourhood(self, index: int) -> tuple[str, int]:
        """A name for the pictures of sample ``index`` and the length of its question, known without decoding pictures.

        Samples with the same pictures are computed together, and among them those of similar length.
        """
        return self.sample_id(index), 0

    @abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """Make sample ``index``.

        Raises:
            SampleError: this sample cannot be used; a PassingError if that may pass.
            SourceError: no sample can be read now.
        """

    @abstractmethod
    def score(self, sample: Sample, prediction: str) -> Scores:
        """The sample's metrics, given the model's text, in which boxes of `unit_box_tasks` are fractions."""

    def score_as_said(self, sample: Sample, answer: str) -> Scores:
        """Metrics of the text as the model wrote it, where its boxes are read by a rule of the benchmark's own."""
        return {}

    @abstractmethod
    def max_new_tokens(self, task: str) -> int:
        """How many new tokens an answer to ``task`` may have."""

    def take(self, limit: int | None) -> int:
        """How many samples, from the first on, a run with this ``limit`` computes (None: all)."""
        return len(self) if limit is None else min(limit, len(self))

    def metrics(self, rows: Sequence[Mapping]) -> Scores:
        """The numbers that are printed, from journal rows: ``scores``, ``target``, ``prediction`` of every sample."""
        return self.numbers(mean_scores(self.units(rows)))

    def units(self, rows: Sequence[Mapping]) -> list[Scores]:
        """The scores to be averaged, by name: those of each row, unless numbers are made from something else.

        Rows of one group (``meta["group"]``) give the same units whichever other rows stand beside them.
        """
        return [row["scores"] for row in rows]

    def numbers(self, means: Scores) -> Scores:
        """The printed numbers, made from the means of `units`; the first is the headline."""
        return means


def require_slot(key: str, prompt: str, slot: str) -> None:
    """Refuse a prompt without its slot, by a BenchmarkError."""
    if slot not in prompt:
        raise BenchmarkError(f"dataset.{key}={prompt!r} lacks the slot {slot}")


def mean_scores(units: Iterable[Scores]) -> Scores:
    """Mean of every score over the units that have it, in the order of first appearance.

    >>> mean_scores([{"a": 1.0}, {"a": 0.0, "b": 0.5}])
    {'a': 0.5, 'b': 0.5}
    """
    values: dict[str, list[float]] = defaultdict(list)
    for unit in units:
        for name, value in unit.items():
            values[name].append(float(value))
    return {name: sum(column) / len(column) for name, column in values.items()}


def headline_first(means: Scores) -> Scores:
    """Numbers in order: the headline, its parts (``vqa/acc/a``), and last the share of answers that could be read.

    >>> headline_first({"vqa/parsed": 1.0, "vqa/acc/b": 0.5, "vqa/acc": 0.7, "vqa/acc/a": 0.9})
    {'vqa/acc': 0.7, 'vqa/acc/a': 0.9, 'vqa/acc/b': 0.5, 'vqa/parsed': 1.0}
    """
    order = sorted(means, key=lambda name: (name.endswith("/parsed"), name.count("/"), name))
    return {name: means[name] for name in order}
