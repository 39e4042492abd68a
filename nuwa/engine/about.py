"""What the caller says of the images of a thread's calls: their names, and what is asked about each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from nuwa.engine.guards import check_count

_said: ContextVar[tuple[About, Sequence[str] | None, Sequence[str] | None] | None] = ContextVar("said", default=None)


class About:
    """What one session is told; another may be open in the same thread, on another model."""

    @contextmanager
    def telling(self, ids: Sequence[str] | None, questions: Sequence[str] | None) -> Iterator[None]:
        """Inside it, the calls of this thread are about images named ``ids``, of which ``questions`` are asked."""
        token = _said.set((self, ids, questions))
        try:
            yield
        finally:
            _said.reset(token)

    def told(self) -> tuple[Sequence[str] | None, Sequence[str] | None]:
        """Names and questions, pictures first, then videos; None where nothing was said."""
        said = _said.get()
        return said[1:] if said is not None and said[0] is self else (None, None)

    def check(self, count: int, exact: bool = True) -> None:
        """Refuse what was said of another number of images than ``count``; not ``exact``: of fewer.

        Raises:
            nuwa.engine.guards.SessionError: it was.
        """
        for name, given in zip(("ids", "questions"), self.told(), strict=True):
            check_count(name, given, count, exact)


def content_ids(images: Sequence[Tensor]) -> list[str]:
    """Names for images without one: the sum of an image's bits times their places, computed on its device."""
    flat = [pixels.detach().float().flatten().view(torch.int32) for pixels in images]
    sums = [(torch.arange(1, len(bits) + 1, device=bits.device) * bits).sum() for bits in flat]
    return [f"{total % 2**64:016x}" for total in (torch.stack(sums).tolist() if sums else [])]
