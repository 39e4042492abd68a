"""How a run ends from outside: by a signal, or because the process that started it is gone."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import FrameType

from torch.distributed import is_torchelastic_launched

WATCH_SECONDS = 0.5
"""How often a process looks whether its parent is still there."""


def stop(number: int, frame: FrameType | None = None) -> None:
    """Handle a signal: end the program with the exit status that shells give it."""
    raise SystemExit(128 + number)


@contextmanager
def stopping_at_once(*numbers: int) -> Iterator[None]:
    """Let signals in here `stop` the program, unless somebody else handles them.

    Lightning replaces the handlers and calls them from its own. Without any it only notes SIGTERM, looks at that note
    between two batches, and never after the last one: the jobs that follow would run.
    """
    usual = (signal.SIG_DFL, signal.default_int_handler)
    mine = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in numbers if mine and signal.getsignal(number) in usual}
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@cache
def follow_parent() -> None:
    """End this process soon after its parent, if it is one of several of a run or a launcher's worker.

    Whatever kills the parent, nothing is left to hold the machine. What is on disk stays: the same command goes on.
    """
    parent = multiprocessing.parent_process()
    if parent is None and not is_torchelastic_launched():
        return
    wanted = os.getppid() if parent is None or parent.pid is None else parent.pid

    def watch() -> None:
        while os.getppid() == wanted:
            time.sleep(WATCH_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="follow-parent", daemon=True).start()
