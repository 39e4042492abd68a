"""Put small mistakes into the core, one at a time, and see whether a test notices.

    python tests/mutation/run.py --room engine --sample 100

A parent process imports torch and the like once; each mutant is a fork that imports `nuwa` with the mistake in it and
runs the tests of its line, quick ones first, until one fails. Nothing is written to the repository. The first run
traces all tests to learn which lines they run (minutes); later ones trace the test files that changed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from mutation.covering import Coverage, collect
from mutation.forks import ROOT, Task, run, warm
from mutation.judging import Round
from mutation.mutants import Mutant, mutants_of

ROOMS = ("engine", "pruning", "pruners", "evaluation", "benchmarks")
EQUIVALENT = Path(__file__).with_name("equivalent.jsonl")
TRACE = "test files to trace first: those that changed, all, none; only: the changed ones, and no mutants"


def chosen(room: str, sample: int, seed: int) -> list[Mutant]:
    """The same ``sample`` mutants of a room for the same seed, as long as their lines stay."""
    found = []
    for path in sorted((ROOT / "nuwa" / room).rglob("*.py")):
        found += mutants_of(str(path.relative_to(ROOT)), path.read_bytes())
    return sorted(found, key=lambda m: hashlib.sha1(f"{seed}{m.id}".encode()).digest())[: sample or None]


def equivalents() -> set[tuple[str, str, str, int]]:
    """File, line, change and number of mutants that were judged to change nothing a user sees."""
    rows = [json.loads(line) for line in EQUIVALENT.read_text().splitlines()]
    for row in rows:
        if row["line"] not in map(str.strip, (ROOT / row["file"]).read_text().splitlines()):
            print(f"{EQUIVALENT.name}: {row['file']} has no line {row['line']!r} any more")
    return {(row["file"], row["line"], row["change"], row.get("number", 0)) for row in rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--room", nargs="*", default=ROOMS, help="folders of nuwa (default: %(default)s)")
    parser.add_argument("--sample", type=int, default=60, help="mutants of each room, 0 for all (default: 60)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="processes at once (default: 2)")
    parser.add_argument("--seconds", type=float, default=60, help="of tests per mutant (default: 60)")
    parser.add_argument("--resume", action="store_true", help="keep the verdicts of an earlier run")
    parser.add_argument("--survivors", action="store_true", help="only mutants that survived an earlier run")
    parser.add_argument("--trace", choices=("changed", "all", "none", "only"), default="changed", help=TRACE)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "nuwa-mutation")
    options = parser.parse_args()
    os.chdir(ROOT)
    sys.pycache_prefix = str(options.cache / "bytecode")
    warm()
    if options.trace != "none":
        collect(options.jobs, options.cache, fresh=options.trace == "all")
    if options.trace != "only":
        judge_rooms(options)


def judge_rooms(options: argparse.Namespace) -> None:
    """Judge a sample of each room's mutants, then print survivors and scores."""
    log = options.cache / "verdicts.jsonl"
    known = {row["id"]: row for row in map(json.loads, log.read_text().splitlines())} if log.exists() else {}
    mutants = {m.id: m for room in options.room for m in chosen(room, options.sample, options.seed)}
    same = equivalents()
    verdicts = {
        m.id: {"status": "equivalent"} for m in mutants.values() if (m.file, m.source, m.what, m.number) in same
    }
    if options.resume or options.survivors:
        keep = ("killed",) if options.survivors else ("killed", "survived", "untested")
        verdicts |= {i: known[i] for i in mutants if i in known and known[i]["status"] in keep and i not in verdicts}
    asked = [m for m in mutants.values() if m.id not in verdicts]
    around, begun = Round(asked, Coverage(options.cache), options.seconds), time.monotonic()
    for mutant, verdict in around.verdicts(run(around.following, options.jobs, options.cache / "forks")):
        verdicts[mutant.id] = verdict
        done = f"{sum(m.id in verdicts for m in asked)}/{len(asked)} {time.monotonic() - begun:.0f} s"
        why = verdict["by"] or f"{verdict['passed']} tests passed"
        print(f"{done} {verdict['status']} {mutant.file}:{mutant.line} {mutant.what} ({why})"[:230], flush=True)
        with log.open("a") as file:
            diff = mutant.diff((ROOT / mutant.file).read_bytes())
            print(json.dumps({"id": mutant.id, "file": mutant.file, **verdict, "diff": diff}), file=file)
    doubt(verdicts, around.checks({v["by"] for v in verdicts.values() if v.get("by")}), options)
    summary(options.room, mutants, verdicts)


def doubt(verdicts: dict[str, dict], tasks: list[Task], options: argparse.Namespace) -> None:
    """Take back the kills of tests that fail without a mistake, too."""
    results = run(lambda: tasks and tasks.pop(), options.jobs, options.cache / "forks")
    broken = {test for _, result in results if result for test in result["failed"]}
    for verdict in verdicts.values():
        if verdict.get("by") in broken:
            verdict |= {"status": "untested", "by": f"{verdict['by']} fails without the mistake, too"}


def summary(rooms: list[str], mutants: dict[str, Mutant], verdicts: dict[str, dict]) -> None:
    """Print what survived, then a table of the rooms."""
    for i, mutant in mutants.items():
        verdict = verdicts[i]
        if verdict["status"] in ("survived", "untested"):
            print(f"\n{i} {verdict['status']}: {mutant.what} ({verdict['by'] or verdict['passed']})")
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
