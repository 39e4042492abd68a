"""What a run can do without never fails it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress

log = logging.getLogger(__name__)


@contextmanager
def unharmed(what: str) -> Iterator[None]:
    """Turn any error inside into a warning that says ``what`` was lost."""
    try:
        yield
    except Exception as error:
        reason = str(error).partition("\n")[0]
        log.warning("%s (%s: %s); the answers stand", what, type(error).__name__, reason)


class QuietLog(logging.FileHandler):
    """launch.log: where it cannot be written, as on a full disk, the terminal alone says what happens."""

    def __init__(self, filename: str, mode: str = "a"):
        super().__init__(filename, mode, encoding="utf-8", delay=True)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record if that is possible."""
        with suppress(OSError):
            super().emit(record)

    def close(self) -> None:
        """Give up what is not written yet if it cannot be."""
        with suppress(OSError):
            super().close()

    def handleError(self, record: logging.LogRecord) -> None:
        """Say nothing where logging would print a traceback."""
