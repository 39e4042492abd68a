"""A mutant's verdict: its tests run in a fork that imports the package with the mistake in it, until one fails."""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import partial
from importlib.machinery import SourceFileLoader
from pathlib import Path

from mutation.covering import Coverage
from mutation.forks import ROOT, Task, pytest_in_fork
from mutation.mutants import Mutant

FIRST = 12
"""Tests of a mutant's first fork: they notice most mistakes, and few files have to be read for them."""


class Chosen:
    """A pytest plugin: runs some tests in their order, and holds which fail and how many pass."""

    def __init__(self, tests: list[str]):
        self.rank = {test: place for place, test in enumerate(tests)}
        self.failed: list[str] = []
        self.passed = 0

    def pytest_collection_modifyitems(self, items):
        items[:] = sorted((item for item in items if item.nodeid in self.rank), key=lambda item: self.rank[item.nodeid])

    def pytest_collectreport(self, report):
        self.failed += [report.nodeid] if report.failed else []

    def pytest_runtest_logreport(self, report):
        self.passed += report.when == "call" and report.passed
        self.failed += [report.nodeid] if report.failed else []


class Mutated(SourceFileLoader, importlib.abc.MetaPathFinder):
    """Imports one file with a mistake in it; all others as they are."""

    def __init__(self, mutant: Mutant):
        name = mutant.file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        super().__init__(name, str(ROOT / mutant.file))
        self.mutant = mutant

    def find_spec(self, fullname, path=None, target=None):
        if fullname == self.name:
            return importlib.util.spec_from_file_location(fullname, self.path, loader=self)
        return None

    def get_code(self, fullname):
        return compile(self.mutant.apply(Path(self.path).read_bytes()), self.path, "exec", dont_inherit=True)


def ask(tests: list[str], mutant: Mutant | None, scratch: Path) -> dict:
    """Run tests, until the first fails where a mutant is given: which failed, and how many passed."""
    if mutant:
        sys.meta_path.insert(0, Mutated(mutant))
    chosen = Chosen(tests)
    files = list(dict.fromkeys(test.partition("::")[0] for test in tests))
    code = pytest_in_fork(files, chosen, scratch, *["-x"] * bool(mutant))
    if code in (3, 4) and not chosen.failed:
        chosen.failed.append(f"pytest's exit code {code}")
    return {"failed": chosen.failed, "passed": chosen.passed}


class Round:
    """Mutants and the tests that each has still to meet. ``limit``: seconds of tests per mutant."""

    def __init__(self, mutants: list[Mutant], coverage: Coverage, limit: float):
        self.coverage, self.limit = coverage, limit
        self.waiting, self.again = mutants[::-1], []
        self.passed: dict[Mutant, int] = defaultdict(int)

    def following(self) -> Task | None:
        """The next task, if there is one now."""
        if self.again:
            mutant, tests, rest = self.again.pop()
        elif self.waiting:
            mutant = self.waiting.pop()
            tests = self.coverage.tests(mutant, self.limit)
            tests, rest = tests[:FIRST], tests[FIRST:]
        else:
            return None
        return self._task((mutant, rest), tests, mutant)

    def _task(self, key, tests: list[str], mutant: Mutant | None) -> Task:
        seconds = int(30 + 4 * sum(self.coverage.seconds[test] for test in tests))
        return Task(key, partial(ask, tests, mutant), seconds)

    def verdicts(self, results: Iterable[tuple]) -> Iterator[tuple[Mutant, dict]]:
        """What became of each mutant; one that has passed its first tests goes on to the others."""
        for (mutant, rest), result in results:
            result = {"failed": ["its limit"], "passed": 0} if result is None else result
            if "error" in result:
                raise RuntimeError(result["error"])
            self.passed[mutant] += result["passed"]
            if rest and not result["failed"]:
                self.again.append((mutant, rest, []))
                continue
            passed = self.passed[mutant]
            status = "killed" if result["failed"] else "survived" if passed else "untested"
            yield mutant, {"status": status, "by": next(iter(result["failed"]), None), "passed": passed}

    def checks(self, tests: set[str]) -> list[Task]:
        """Tasks that run killers without a mistake, those of a file at a time."""
        files = defaultdict(list)
        for test in sorted(tests & set(self.coverage.seconds)):
            files[test.partition("::")[0]].append(test)
        return [self._task(file, mine, None) for file, mine in files.items()]
