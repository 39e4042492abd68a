"""Which tests run a line: found once per test file by tracing, kept outside the repository."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import threading
from collections import defaultdict
from functools import partial
from pathlib import Path

from mutation.forks import ROOT, Task, pytest_in_fork, run
from mutation.mutants import Mutant

PARTS = re.compile(r"(\.<locals>)?\.<(listcomp|genexpr|dictcomp|setcomp|lambda)>")
"""Functions without a name of their own are part of the one around them."""
TESTS = ("pruning", "pruners", "engine", "evaluation", "benchmarks", "models", "report", "config", ".")
"""Folders of the tests that are traced; the others are about what builds on the core."""


class Tracer:
    """A pytest plugin: lines of the package that every passing test runs, and the seconds it takes."""

    def __init__(self, folder: Path):
        self.prefix, self.now, self.local = str(folder), set(), {}
        self.tests: dict[str, tuple[float, set]] = {}

    def _call(self, frame, event, arg):
        code = frame.f_code
        if code not in self.local:
            self.local[code] = self._lines(code) if code.co_filename.startswith(self.prefix) else None
        local = self.local[code]
        return local(frame, event, arg) if local else None

    def _lines(self, code):
        file, scope = code.co_filename, code.co_qualname

        def trace(frame, event, arg):
            self.now.add((file, scope, frame.f_lineno))
            return trace

        return trace

    def pytest_runtest_protocol(self, item, nextitem):
        self.now = set()
        threading.settrace(self._call)
        sys.settrace(self._call)

    def pytest_runtest_logreport(self, report):
        seconds, lines = self.tests.get(report.nodeid, (0.0, self.now))
        self.tests[report.nodeid] = seconds + report.duration if report.outcome == "passed" else float("inf"), lines

    def table(self) -> dict:
        """``{"lines": [file|scope|source ...], "tests": {id: [seconds, places in lines]}}``."""
        files = {file for _, lines in self.tests.values() for file, _, _ in lines}
        texts = {file: dict(enumerate(map(str.strip, Path(file).read_text().splitlines()), 1)) for file in files}
        places: dict[str, int] = {}
        tests = {}
        for test, (seconds, lines) in self.tests.items():
            if seconds < float("inf"):
                keys = {key_of(str(Path(f).relative_to(ROOT)), scope, texts[f].get(n, "")) for f, scope, n in lines}
                tests[test] = [round(seconds, 3), sorted(places.setdefault(key, len(places)) for key in keys)]
        return {"lines": list(places), "tests": tests}


def key_of(file: str, scope: str, source: str) -> str:
    return f"{file}|{PARTS.sub('', scope)}|{source}"


def collect(jobs: int, cache: Path, fresh: bool) -> None:
    """Trace the test files that are new or changed since, all of them if ``fresh``."""
    folder = cache / "lines"
    folder.mkdir(parents=True, exist_ok=True)
    tasks = []
    for path in (path for part in TESTS for path in sorted((ROOT / "tests").glob(f"{part}/test_*.py"))):
        file, digest = str(path.relative_to(ROOT)), hashlib.sha1(path.read_bytes()).hexdigest()
        known = _known(folder, file)
        if fresh or known is None or known["digest"] != digest:
            tasks.append(Task((file, digest), partial(_trace, file), 1500))
    total = len(tasks)
    for number, ((file, digest), table) in enumerate(run(lambda: tasks and tasks.pop(0), jobs, cache / "forks"), 1):
        table = {"error": "killed"} if table is None else table
        if "error" not in table:
            _place(folder, file).write_text(json.dumps({"file": file, "digest": digest, **table}))
        print(f"{number}/{total} {file}: {len(table.get('tests', ()))} tests {table.get('error', '')}", flush=True)


def _trace(file: str, scratch: Path) -> dict:
    tracer = Tracer(ROOT / "nuwa")
    pytest_in_fork([file], tracer, scratch)
    sys.settrace(None)
    return tracer.table()


def _place(folder: Path, file: str) -> Path:
    return folder / (file.replace("/", ".") + ".json")


def _known(folder: Path, file: str) -> dict | None:
    path = _place(folder, file)
    return json.loads(path.read_text()) if path.exists() else None


def around(file: str, scope: str) -> list[tuple[str, str]]:
    """A function and what is around it: functions and classes, its file, its folder."""
    found = [(file, scope)]
    while scope:
        scope = scope.rpartition(".")[0].removesuffix(".<locals>")
        found.append((file, scope))
    return [*found, (str(Path(file).parent), "")]


class Coverage:
    """The tests of a mutant: those that run its line; else its function, or the next thing around it that is run."""

    def __init__(self, cache: Path):
        self.seconds: dict[str, float] = {}
        self.by_line, self.by_scope = defaultdict(set), defaultdict(set)
        for path in (cache / "lines").glob("*.json"):
            table = json.loads(path.read_text())
            if not (ROOT / table["file"]).exists():
                continue
            for test, (seconds, places) in table["tests"].items():
                self.seconds[test] = seconds
                keys = {table["lines"][place] for place in places}
                for key in keys:
                    self.by_line[key].add(test)
                for scope in {tuple(key.split("|", 2)[:2]) for key in keys}:
                    for place in around(*scope):
                        self.by_scope[place].add(test)

    def tests(self, mutant: Mutant, limit: float) -> list[str]:
        """Each test function's quickest case, quick functions before slow ones; then their second cases, and so on
        for ``limit`` seconds in all."""
        groups = defaultdict(list)
        for test in sorted(self._running(mutant), key=lambda test: (self.seconds[test], test)):
            groups[test.partition("[")[0]].append(test)
        turns = [(turn, self.seconds[test], test) for group in groups.values() for turn, test in enumerate(group)]
        chosen, spent = [], 0.0
        for _, seconds, test in sorted(turns):
            if spent + seconds <= limit or not chosen:
                chosen.append(test)
                spent += seconds
        return chosen

    def _running(self, mutant: Mutant) -> set[str]:
        found = self.by_line.get(key_of(mutant.file, mutant.scope, mutant.source), set())
        for place in around(mutant.file, mutant.scope):
            found = found or self.by_scope.get(place, set())
        return found
