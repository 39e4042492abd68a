"""A process that has imported everything; each command it is given runs in a fork, as a shell would run it.

Importing torch and the like takes seconds, a fork milliseconds. Requests and replies are lines of JSON on stdin and
stdout; see `helpers.faults`, which starts this file.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import runpy
import signal
import sys
import time
import traceback
from pathlib import Path

from helpers.rights import renounce

ROOT = Path(__file__).parents[2]
IMPORTED = (
    "hydra", "lightning", "torch", "transformers", "transformers.models.llava", "PIL.Image", "pydantic", "yaml",
    "nuwa.evaluation.run", "nuwa.evaluation.compute", "nuwa.report.__main__", "nuwa.report.pictures", "nuwa.judge",
)  # fmt: skip


def execute(arguments: list[str]) -> int:
    """Run ``-m module ...`` or ``launch.py ...`` (``-c ...``: with this folder on sys.path) in this process.

    Returns the exit status that Python would give.
    """
    try:
        if arguments[0].startswith("-"):
            sys.path.insert(0, str(Path.cwd()))  # as Python does
        if arguments[0] == "-m":
            sys.argv = arguments[1:]
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = [str(ROOT / "launch.py"), *arguments[1:]]
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:
        traceback.print_exc()
        return 128 + signal.SIGINT
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def become(request: dict, log: int) -> None:
    """Make this fork the process that was asked for: its own group, output, folder, environment and limits."""
    os.setpgid(0, 0)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    for name, soft in request["limits"].items():
        resource.setrlimit(getattr(resource, name), (soft, resource.getrlimit(getattr(resource, name))[1]))
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    if request["ordinary"]:
        renounce()


def run(request: dict) -> dict:
    """Fork, wait, kill what takes longer than ``seconds``: exit status (negative: the signal), seconds of CPU."""
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    pid = os.fork()
    if not pid:
        status = 1
        try:
            become(request, log)
            status = execute(request["arguments"])
        finally:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError, ValueError):
                    stream.flush()
            os._exit(status)
    os.close(log)
    end, late = time.monotonic() + request["seconds"], False
    while not (found := os.wait4(pid, os.WNOHANG))[0]:
        if time.monotonic() > end:
            late = True
            os.killpg(pid, signal.SIGKILL)
        time.sleep(0.005)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)  # what it started and left behind
    used = found[2]
    return {
        "status": os.waitstatus_to_exitcode(found[1]),
        "late": late,
        "seconds": used.ru_utime + used.ru_stime,
        "megabytes": used.ru_maxrss / 1024,
    }


def main() -> None:
    """Answer requests until stdin ends."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for name in IMPORTED:
        importlib.import_module(name)
    for line in sys.stdin:
        replies.write(json.dumps(run(json.loads(line))) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
