"""Commands run in forks of one warm process (`tests/faults/server.py`), and what a case of bad input must show."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from helpers.jobs import ROOT, SMALL

from nuwa.evaluation.journal import JOURNAL

TOY = (*SMALL, "pruner=none", "baseline=skip", "generation.max_new_tokens=2", "dataset.samples=2")
"""A run of two samples on a toy model, about a second in a fork."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended: exit status, what it printed, seconds of CPU, peak memory, whether it had to be killed."""

    status: int
    printed: str
    seconds: float
    megabytes: float
    late: bool


@dataclass(frozen=True)
class Case:
    """A command that meets something bad, and what it must come to.

    ``arguments`` as for Python: ``launch.py ...`` or ``-m module ...``; ``{folder}`` in them is the case's own folder,
    which ``prepare`` fills and ``after`` looks at. ``status`` is the exit status; ``says`` are words of the output,
    ``silent`` words that must not be there. ``rows`` journal rows survive in all.
    ``ordinary``: without root's rights (`helpers.rights`).
    """

    name: str
    arguments: tuple[str, ...]
    status: int = 1
    says: tuple[str, ...] = ()
    silent: tuple[str, ...] = ("Traceback",)
    prepare: Callable[[Path], object] = lambda folder: None
    after: Callable[[Path], object] = lambda folder: None
    rows: int | None = None
    seconds: float = 60
    environment: dict[str, str] = field(default_factory=dict)
    ordinary: bool = False

    def check(self, server: Server, folder: Path) -> Outcome:
        """Run it in ``folder`` and assert all that is asked of it."""
        self.prepare(folder)
        arguments = [argument.replace("{folder}", str(folder)) for argument in self.arguments]
        outcome = server.run(arguments, folder, self.seconds, environment=self.environment, ordinary=self.ordinary)
        shown = f"{self.name}: exit status {outcome.status} after {outcome.seconds:.1f} s\n{outcome.printed}"
        assert not outcome.late, shown
        assert outcome.status == self.status, shown
        for words in self.says:
            assert words in outcome.printed, f"lacks {words!r}; {shown}"
        for words in self.silent:
            assert words not in outcome.printed, f"says {words!r}; {shown}"
        if self.rows is not None:
            assert rows_below(folder) == self.rows, shown
        self.after(folder)
        return outcome


def launch(name: str, *overrides: str, **expected) -> Case:
    """A case of ``launch.py`` on the toy job, writing to ``{folder}/out``."""
    return Case(name, ("launch.py", *TOY, "paths.outputs={folder}/out", *overrides), **expected)


def rows_below(folder: Path) -> int:
    """All rows of all journals below a folder."""
    return sum(file.read_bytes().count(b"\n") for file in folder.rglob(JOURNAL) if file.is_file())


class Server:
    """The warm process; commands run one after the other."""

    def __init__(self, process: subprocess.Popen[str]):
        self.process = process

    def run(
        self,
        arguments: list[str],
        folder: Path,
        seconds: float = 60,
        *,
        environment: dict[str, str] | None = None,
        limits: dict[str, int] | None = None,
        ordinary: bool = False,
    ) -> Outcome:
        """Run a command in ``folder``, at most so many seconds, under ``limits`` of `resource` by name."""
        log = folder / "printed.txt"
        request = {"arguments": arguments, "folder": str(folder), "log": str(log), "seconds": seconds}
        request |= {"environment": environment or {}, "limits": limits or {}, "ordinary": ordinary}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        reply = json.loads(self.process.stdout.readline())
        return Outcome(printed=log.read_text(encoding="utf-8", errors="replace"), **reply)


@contextmanager
def fork_server() -> Iterator[Server]:
    """A `Server`, ended on leaving."""
    command = [sys.executable, str(ROOT / "tests/faults/server.py")]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    }
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, env=environment, **pipes) as process:
        try:
            yield Server(process)
        finally:
            process.stdin.close()
