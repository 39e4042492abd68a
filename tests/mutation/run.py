"""Put small mistakes into the core, one at a time, and see whether a test notices.

    python tests/mutation/run.py --room engine --sample 100

A parent process imports torch and the like once; each mutant is a fork that imports `nuwa` with the mistake in it and
runs the tests of its line, quick ones first, until one fails. Nothing is written to the repository. The first run
traces all tests to learn which lines they run (minutes); later ones trace the test files that changed.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.abc
import importlib.util
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from mutation import covering
from mutation.forks import ROOT, Task, pytest_in_fork, run, warm
from mutation.mutants import Mutant, mutants_of

ROOMS = ("engine", "pruning", "pruners", "evaluation", "benchmarks")
EQUIVALENT = Path(__file__).with_name("equivalent.jsonl")
FIRST = 12
"""Tests of the first fork; those few notice most mistakes, and few files have to be read for them."""


class Verdict:
    """A pytest plugin: only the chosen tests, in their order; the first that fails is the killer."""

    def __init__(self, tests: list[str]):
        self.rank = {test: place for place, test in enumerate(tests)}
        self.killer, self.passed = None, 0

    def pytest_collection_modifyitems(self, items):
        items[:] = sorted((item for item in items if item.nodeid in self.rank), key=lambda item: self.rank[item.nodeid])

    def pytest_collectreport(self, report):
        if report.failed:
            self.killer = self.killer or report.nodeid

    def pytest_runtest_logreport(self, report):
        self.passed += report.when == "call" and report.passed
        if report.failed:
            self.killer = self.killer or report.nodeid


class Mutated(importlib.abc.MetaPathFinder, importlib.machinery.SourceFileLoader):
    """Imports one file with a mistake in it; all others as they are."""

    def __init__(self, mutant: Mutant):
        name = mutant.file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        super().__init__(name, str(ROOT / mutant.file))
        self.mutant = mutant

    def find_spec(self, fullname, path=None, target=None):
        return (
            importlib.util.spec_from_file_location(fullname, self.path, loader=self) if fullname == self.name else None
        )

    def get_code(self, fullname):
        return compile(self.mutant.apply(Path(self.path).read_bytes()), self.path, "exec", dont_inherit=True)


def judge(mutant: Mutant, tests: list[str], scratch: Path) -> dict:
    """Run tests on a mutant: who killed it, and how many passed."""
    sys.meta_path.insert(0, Mutated(mutant))
    verdict = Verdict(tests)
    files = list(dict.fromkeys(test.partition("::")[0] for test in tests))
    code = pytest_in_fork(files, verdict, scratch, "-x")
    if code == 3 and not verdict.killer:
        verdict.killer = "pytest itself"
    return {"killer": verdict.killer, "passed": verdict.passed}


class Round:
    """Mutants and where they stand: the next task of each, and its verdict."""

    def __init__(self, mutants: list[Mutant], coverage: covering.Coverage, cache: Path, limit: float):
        self.coverage, self.cache, self.limit = coverage, cache, limit
        self.waiting, self.later, self.passed = list(reversed(mutants)), [], {}

    def following(self) -> Task | None:
        """The next task, if there is one now."""
        if not self.later and not self.waiting:
            return None
        mutant, tests, rest = self.later.pop() if self.later else self._begin(self.waiting.pop())
        seconds = int(30 + 4 * sum(self.coverage.seconds[test] for test in tests))
        return Task((mutant, rest), lambda: judge(mutant, tests, self.cache / f"tmp_{mutant.id}"), seconds)

    def _begin(self, mutant: Mutant):
        tests = self.coverage.tests(mutant, self.limit)
        return mutant, tests[:FIRST], tests[FIRST:]

    def verdicts(
        self, results: Iterable[tuple[tuple[Mutant, list[str]], dict | None]]
    ) -> Iterator[tuple[Mutant, dict]]:
        """What became of each mutant; one with more tests to ask gets another task instead."""
        for (mutant, rest), result in results:
            result = {"killer": "its limit", "passed": 0} if result is None else result
            killer = result.get("error") or result["killer"]
            passed = self.passed[mutant] = self.passed.get(mutant, 0) + result.get("passed", 0)
            if rest and not killer:
                self.later.append((mutant, rest, []))
                continue
            status = "killed" if killer else "survived" if passed else "untested"
            diff = mutant.diff((ROOT / mutant.file).read_bytes())
            yield mutant, {"status": status, "by": killer, "passed": passed, "diff": diff}


def chosen(room: str, sample: int, seed: int) -> list[Mutant]:
    """The same ``sample`` mutants of a room for the same seed, as long as their lines stay."""
    found = []
    for path in sorted((ROOT / "nuwa" / room).rglob("*.py")):
        found += mutants_of(str(path.relative_to(ROOT)), path.read_bytes())
    return sorted(found, key=lambda m: hashlib.sha1(f"{seed}{m.id}".encode()).digest())[: sample or None]


def equivalents() -> set[tuple[str, str, str]]:
    """File, line and change of mutants that were judged to change nothing a user sees."""
    rows = [json.loads(line) for line in EQUIVALENT.read_text().splitlines() if line.strip()]
    return {(row["file"], row["line"], row["change"]) for row in rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--room", nargs="*", default=ROOMS, help="folders of nuwa (default: %(default)s)")
    parser.add_argument("--sample", type=int, default=60, help="mutants of each room, 0 for all (default: 60)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="processes at once (default: 2)")
    parser.add_argument("--seconds", type=float, default=60, help="of tests per mutant (default: 60)")
    parser.add_argument("--resume", action="store_true", help="keep the verdicts of an earlier run")
    parser.add_argument("--survivors", action="store_true", help="only mutants that survived an earlier run")
    parser.add_argument("--fresh", action="store_true", help="trace all test files anew")
    parser.add_argument("--trace-only", action="store_true", help="stop after tracing")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "nuwa-mutation")
    options = parser.parse_args()
    os.chdir(ROOT)
    sys.pycache_prefix = str(options.cache / "bytecode")
    warm()
    covering.collect(options.jobs, options.cache, options.fresh)
    if not options.trace_only:
        judge_rooms(options)


def judge_rooms(options: argparse.Namespace) -> None:
    """Judge a sample of each room's mutants, then print survivors and scores."""
    log = options.cache / "verdicts.jsonl"
    known = {row["id"]: row for row in map(json.loads, log.read_text().splitlines())} if log.exists() else {}
    mutants = {m.id: m for room in options.room for m in chosen(room, options.sample, options.seed)}
    same = equivalents()
    verdicts = {m.id: {"status": "equivalent"} for m in mutants.values() if (m.file, m.source, m.what) in same}
    if options.resume or options.survivors:
        keep = ("killed",) if options.survivors else ("killed", "survived", "untested")
        verdicts |= {i: known[i] for i in mutants if i in known and known[i]["status"] in keep and i not in verdicts}
    asked = [m for m in mutants.values() if m.id not in verdicts]
    around, begun = Round(asked, covering.Coverage(options.cache), options.cache, options.seconds), time.monotonic()
    with log.open("a") as file:
        for mutant, verdict in around.verdicts(run(around.following, options.jobs, options.cache / "forks")):
            row = {"id": mutant.id, "place": f"{mutant.file}:{mutant.line}", "what": mutant.what, **verdict}
            verdicts[mutant.id] = row
            print(json.dumps(row), file=file, flush=True)
            done = f"{sum(m.id in verdicts for m in asked)}/{len(asked)} {time.monotonic() - begun:.0f} s"
            print(
                f"{done} {row['status']} {row['place']} {row['what']} ({row['by'] or row['passed']})"[:230], flush=True
            )
    summary(options.room, mutants, verdicts)


def summary(rooms: list[str], mutants: dict[str, Mutant], verdicts: dict[str, dict]) -> None:
    """Print what survived, then a table of the rooms."""
    for i, mutant in mutants.items():
        if verdicts[i]["status"] in ("survived", "untested"):
            print(f"\n{i} {verdicts[i]['status']}: {mutant.what} ({verdicts[i]['passed']} tests passed)")
            print(mutant.diff((ROOT / mutant.file).read_bytes()), end="")
    print(f"\n{'room':12} mutants equivalent killed survived untested score")
    for room in [*rooms, "all"]:
        mine = [verdicts[i]["status"] for i, m in mutants.items() if room in ("all", m.file.split("/")[1])]
        same, killed = mine.count("equivalent"), mine.count("killed")
        score = killed / max(len(mine) - same, 1)
        rest = f"{killed:6} {mine.count('survived'):8} {mine.count('untested'):8} {score:6.1%}"
        print(f"{room:12} {len(mine):7} {same:10} {rest}")


if __name__ == "__main__":
    main()
