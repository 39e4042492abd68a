"""Work on the next items while the present one is in use."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetched(Generic[T]):
    """The items of ``source`` after ``prepare``, in order; one thread makes up to ``ahead`` of them in advance.

    An error in reading or preparing is raised where the item would have come. ``ahead=0`` prepares each item when it is
    due. The caller makes the first item itself, because processes that ``source`` starts must not be forked from the
    thread.

    >>> list(Prefetched([1, 2, 3], lambda number: 10 * number, ahead=2))
    [10, 20, 30]
    """

    def __init__(self, source: Iterable[T], prepare: Callable[[T], T], ahead: int) -> None:
        self.source, self.prepare, self.ahead = source, prepare, ahead

    def __iter__(self) -> Iterator[T]:
        prepared = map(self.prepare, self.source)
        if not self.ahead:
            yield from prepared
            return

        def make() -> list[T]:
            return list(islice(prepared, 1))  # empty at the end

        made = make()
        with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as thread:
            waiting: deque[Future[list[T]]] = deque(thread.submit(make) for _ in range(self.ahead))
            try:
                while made:
                    yield made[0]
                    made = waiting.popleft().result()
                    waiting.append(thread.submit(make))
            finally:
                for future in waiting:
                    future.cancel()
