"""Samples in the order and portions in which they are computed, without those that the journal already has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import lightning
import torch
from torch.utils.data import DataLoader, Dataset

from nuwa.benchmarks.base import Benchmark, Sample, SampleError
from nuwa.evaluation.journal import Row


@dataclass(frozen=True)
class Failure:
    """A sample that could not be used, and why."""

    id: str
    reason: str


@dataclass(frozen=True)
class Done:
    """A sample that the journal already has; keeps its place, so that batches are cut where they were cut before."""

    id: str
    task: str


Item = Sample | Failure | Done


class Samples(Dataset):
    """The first ``count`` samples of a benchmark, without those in ``done`` (id -> row)."""

    def __init__(self, benchmark: Benchmark, count: int, done: dict[str, Row], record: bool):
        self.benchmark, self.done, self.record, self.count = benchmark, done, record, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Item:
        name = self.benchmark.sample_id(index)
        if name in self.done:
            return Done(name, self.done[name]["task"])
        try:
            return self.benchmark[index]
        except SampleError as error:
            if not self.record:
                raise
            return Failure(name, str(error))


class TaskBatches:
    """Batches of one task each, so that all rows of a batch share the length of their answers.

    A sample joins the open batch of its task; a full batch is handed out, the open ones at the end. A sample that
    failed is handed out at once, alone.
    """

    def __init__(self, loader: DataLoader, batch_size: int):
        self.loader, self.batch_size = loader, batch_size

    def __iter__(self) -> Iterator[list[Sample | Failure]]:
        waiting: dict[str, list[Item]] = {}
        for item in self.loader:
            if isinstance(item, Failure):
                yield [item]
                continue
            batch = waiting.setdefault(item.task, [])
            batch.append(item)
            if len(batch) == self.batch_size:
                yield from _remaining(waiting.pop(item.task))
        for batch in waiting.values():
            yield from _remaining(batch)


def _remaining(batch: list[Item]) -> Iterator[list[Sample]]:
    """The batch without what is done, if anything is left of it."""
    left = [item for item in batch if not isinstance(item, Done)]
    if left:
        yield left


class EvaluationData(lightning.LightningDataModule):
    """What is left of a benchmark to compute."""

    def __init__(
        self, benchmark: Benchmark, count: int, done: dict[str, Row], batch_size: int, workers: int, record: bool
    ):
        super().__init__()
        self.samples = Samples(benchmark, count, done, record)
        self.batch_size, self.workers = batch_size, workers

    def test_dataloader(self) -> TaskBatches:
        """Batches of samples; pictures are read ahead by ``workers`` processes."""
        loader = DataLoader(self.samples, batch_size=None, num_workers=self.workers, collate_fn=_as_is)
        return TaskBatches(loader, self.batch_size)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Samples are pictures and text; `LoadedModel.encode` moves their tensors."""
        return batch


def _as_is(item: Item) -> Item:
    return item
