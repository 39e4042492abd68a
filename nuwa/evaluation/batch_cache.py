"""Keeps the encoded batches of a process's last job: the next one on the same samples reads and encodes none again."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nuwa.evaluation.data import Batch

LIMIT = 2**28
"""Bytes of pictures and tensors that a process keeps; of a job that has more, nothing."""
_kept: dict[str, list[Batch]] = {}


@dataclass
class BatchesOnce:
    """The batches of the last job if it had the same ``key``, otherwise those of ``source``.

    They are kept once all have been read, if every sample could be encoded. ``key`` names all that they depend on; an
    empty one keeps nothing and finds nothing.
    """

    key: str
    source: Iterable[Batch]

    def __iter__(self) -> Iterator[Batch]:
        if self.key in _kept:
            yield from _kept[self.key]
            return
        _kept.clear()
        read: list[Batch] = []
        size = 0.0 if self.key else math.inf
        for batch in self.source:
            size += _bytes_of(batch)
            if size <= LIMIT:
                read.append(batch)
            else:
                read.clear()
            yield batch
        if size <= LIMIT:
            _kept[self.key] = read


def _bytes_of(batch: Batch) -> float:
    """Memory of a batch; infinite where it is not to be kept: a failure may pass, and frames of videos are many."""
    samples = batch.samples
    if batch.inputs is None or len(samples) < len(batch.items) or any(sample.videos for sample in samples):
        return math.inf
    pictures = [picture for sample in samples for picture in sample.images]
    pixels = sum(math.prod(picture.size) * len(picture.getbands()) for picture in pictures)
    return pixels + sum(tensor.nbytes for tensor in batch.inputs.values())
