"""Work on the next items while the present one is in use."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")
_END = object()


class Prefetched(Generic[T]):
    """The items of ``source`` after ``prepare``, up to ``ahead`` of them made in advance by one thread, in order.

    What reading or preparing raises is raised where the item would have come. ``ahead=0`` prepares each when it is due.
    The first item, for which nothing else can be done meanwhile, is made by the caller: processes that ``source``
    starts are then not forked from the thread, in which case they end with an error.
    """

    def __init__(self, source: Iterable[T], prepare: Callable[[T], T], ahead: int) -> None:
        self.source, self.prepare, self.ahead = source, prepare, ahead

    def __iter__(self) -> Iterator[T]:
        if not self.ahead:
            yield from map(self.prepare, self.source)
            return
        iterator = iter(self.source)

        def make() -> object:
            item = next(iterator, _END)
            return item if item is _END else self.prepare(item)

        item = make()
        with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as thread:
            waiting: deque[Future] = deque(thread.submit(make) for _ in range(self.ahead))
            try:
                while item is not _END:
                    yield item
                    item = waiting.popleft().result()
                    waiting.append(thread.submit(make))
            finally:
                for future in waiting:
                    future.cancel()
