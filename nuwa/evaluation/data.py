"""The samples that the journal lacks, in the order and batches in which they are computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import lightning
import torch
from torch.utils.data import DataLoader, Dataset

from nuwa.benchmarks.base import Benchmark, SourceError
from nuwa.evaluation.batch_cache import BatchesOnce
from nuwa.evaluation.journal import Row
from nuwa.evaluation.prefetch import Prefetched
from nuwa.models.prompts import PromptError
from nuwa.samples import PassingError, Sample, SampleError, spelt_out


@dataclass(frozen=True)
class Failure:
    """A sample that could not be used, and why; ``passing``: the same command tries it again."""

    id: str
    reason: str
    passing: bool = False


@dataclass(frozen=True)
class Done:
    """A sample that the journal already has. It keeps its place, so that batches are cut as before.

    ``alone``: it could not be read and had a batch of its own.
    """

    id: str
    task: str
    alone: bool


Item = Sample | Failure | Done


@dataclass(frozen=True)
class Batch:
    """Samples that are answered together.

    ``number`` counts the batches of a whole run, over all its processes and restarts. ``inputs`` are the tensors of the
    samples, if they were made ahead of time.
    """

    number: int
    items: list[Sample | Failure]
    inputs: dict[str, torch.Tensor] | None = None

    @property
    def samples(self) -> list[Sample]:
        """The items that could be read."""
        return [item for item in self.items if isinstance(item, Sample)]

    def __iter__(self) -> Iterator[Sample | Failure]:
        return iter(self.items)


def computing_order(benchmark: Benchmark, count: int) -> list[int]:
    """Indices of the first ``count`` samples: samples on the same pictures together, then by length of the question."""
    known = [benchmark.neighbourhood(index) for index in range(count)]
    first: dict[str, int] = {}
    for index, (pictures, _) in enumerate(known):
        first.setdefault(pictures, index)
    apart = len(first) == count  # no two share a picture
    return sorted(range(count), key=lambda index: (0 if apart else first[known[index][0]], known[index][1]))


class Samples(Dataset):
    """The first ``count`` samples of a benchmark in the order of computing, without those in ``done`` (id -> row)."""

    def __init__(self, benchmark: Benchmark, count: int, done: Mapping[str, Row]):
        self.benchmark, self.done = benchmark, done
        self.order = computing_order(benchmark, count)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, place: int) -> Item:
        index = self.order[place]
        name = self.benchmark.sample_id(index)
        if name in self.done:
            row = self.done[name]
            return Done(name, row["task"], alone=row.get("status") == "failed" and not row["task"])
        try:
            return self.benchmark[index]
        except SampleError as error:
            return Failure(name, str(error), isinstance(error, PassingError))
        except SourceError:
            raise
        except Exception as error:  # a row may hold anything
            return Failure(name, spelt_out(f"{type(error).__name__}: {error}"))


class EvaluationData(lightning.LightningDataModule):
    """The rest of a benchmark in batches of one task each, so that all rows of a batch have the same token limit.

    A sample joins the open batch of its task. A full batch is handed out; the open ones follow at the end. A sample
    that cannot be read is a batch of its own; without ``record`` it ends the run. Process ``rank`` of ``size`` gets
    every ``size``-th of the batches that are left to do, so that each batch is computed once, cut as for one process.
    ``workers`` processes read pictures ahead. ``encode`` makes the tensors of up to ``ahead`` batches while the model
    is busy with an earlier one. The next run with the same ``key`` finds them in memory.
    """

    def __init__(
        self,
        benchmark: Benchmark,
        count: int,
        done: Mapping[str, Row],
        batch_size: int,
        workers: int,
        record: bool,
        rank: int = 0,
        size: int = 1,
        encode: Callable[[Sequence[Sample]], dict[str, torch.Tensor]] | None = None,
        ahead: int = 0,
        key: str = "",
    ):
        super().__init__()
        self.loader = DataLoader(Samples(benchmark, count, done), batch_size=None, num_workers=workers)
        self.batch_size, self.record, self.rank, self.size = batch_size, record, rank, size
        self.encode, self.ahead, self.key = encode, ahead, key

    def test_dataloader(self) -> Iterable[Batch]:
        """Batches of samples, with their tensors if there is an ``encode``."""
        return BatchesOnce(self.key, Prefetched(self._left(), self._encoded, self.ahead))

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Samples are pictures and text; `LoadedModel.encode` moves their tensors."""
        return batch

    def _left(self) -> Iterator[Batch]:
        remaining = ([item for item in batch if not isinstance(item, Done)] for batch in self._cut())
        left = (Batch(number, items) for number, items in enumerate(remaining) if items)
        return islice(left, self.rank, None, self.size)

    def _cut(self) -> Iterator[list[Item]]:
        waiting: dict[str, list[Item]] = {}
        for item in self.loader:
            if isinstance(item, Failure) and not self.record:
                raise SampleError(item.reason)
            if isinstance(item, Failure) or (isinstance(item, Done) and item.alone):
                yield [item]
                continue
            batch = waiting.setdefault(item.task, [])
            batch.append(item)
            if len(batch) == self.batch_size:
                yield waiting.pop(item.task)
        yield from waiting.values()

    def _encoded(self, batch: Batch) -> Batch:
        """The batch with its tensors; without them if a sample cannot be used, which answering will find out again."""
        try:
            return replace(batch, inputs=self.encode(batch.samples)) if self.encode and batch.samples else batch
        except (PromptError, SampleError):
            return batch
