"""Work in forks of a process that has torch and the like in memory, a few at a time; none stays behind."""

from __future__ import annotations

import ast
import contextlib
import importlib
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Task:
    """What a fork does: ``work(scratch)``, a folder it may use, gives what JSON can hold.

    ``seconds``: of processor time, then it is killed.
    """

    key: Any
    work: Callable[[Path], Any]
    seconds: int


def warm() -> None:
    """Import what `nuwa` and the tests import from others, so that forks need not; nothing of `nuwa` itself."""
    os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="passive", HF_HUB_OFFLINE="1", WANDB_MODE="offline")
    wanted = {("_pytest.assertion.rewrite", ""), ("pytest_timeout", "")}
    for path in [*ROOT.glob("nuwa/**/*.py"), *ROOT.glob("tests/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Import):
                wanted |= {(alias.name, "") for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                wanted |= {(node.module, alias.name) for alias in node.names}
    own = {path.name.removesuffix(".py") for folder in (ROOT, ROOT / "tests") for path in folder.iterdir()}
    for module, name in sorted(wanted):
        if module.split(".")[0] not in own:
            with contextlib.suppress(ImportError, AttributeError, RuntimeError):
                getattr(importlib.import_module(module), name or "__name__")


def run(following: Callable[[], Task | None], jobs: int, folder: Path) -> Iterator[tuple[Any, Any]]:
    """Each task's key with its result; None where it was killed, an ``{"error": ...}`` where it raised.

    ``following()`` is the next task, nothing while there is none; it is asked again after each result.

    Files of the forks, output included, are in ``folder``.
    """
    running: dict[int, tuple[Task, int, float]] = {}
    folder.mkdir(parents=True, exist_ok=True)
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        while True:
            while len(running) < jobs and (task := following()):
                slot = min(set(range(jobs)) - {slot for _, slot, _ in running.values()})
                running[_fork(task, folder / str(slot))] = task, slot, time.monotonic()
            if not running:
                return
            for pid in list(running):
                task, slot, begun = running[pid]
                if time.monotonic() - begun > 20 * task.seconds:
                    os.killpg(pid, signal.SIGKILL)
                if os.waitpid(pid, os.WNOHANG)[0]:
                    _end(pid)
                    del running[pid]
                    out = folder / f"{slot}.json"
                    yield task.key, json.loads(out.read_text()) if out.exists() else None
            time.sleep(0.01)
    finally:
        for pid in running:
            _end(pid)
            os.waitpid(pid, 0)
        signal.signal(signal.SIGTERM, before)


def _end(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _fork(task: Task, files: Path) -> int:
    out = files.with_suffix(".json")
    out.unlink(missing_ok=True)
    sys.stdout.flush()
    if pid := os.fork():
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.setpgid(pid, pid)
        return pid
    try:
        os.setpgid(0, 0)
        log = os.open(files.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CPU, (task.seconds, task.seconds + 2))
        try:
            result = task.work(files.with_suffix(".tmp"))
        except BaseException:
            result = {"error": traceback.format_exc()}
        part = files.with_suffix(".part")
        part.write_text(json.dumps(result))
        part.replace(out)
    finally:
        os._exit(0)


def pytest_in_fork(files: list[str], plugin: object, scratch: Path, *options: str) -> int:
    """Run pytest over files in this process; returns its exit code."""
    import pytest

    sys.dont_write_bytecode = False
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    common = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:randomly", "-o", "addopts="]
    common += ["--import-mode=importlib", "--strict-markers", "-m", "not slow", f"--basetemp={scratch}"]
    return int(pytest.main([*common, *options, *files], plugins=[plugin]))
