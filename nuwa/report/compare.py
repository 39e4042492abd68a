"""Which of two runs is better, in pairs of the same samples; and which of a whole sweep.

nuwa compare outputs/<name>/<run> outputs/<name>/<other run>    every metric of two runs
nuwa compare outputs/<name> --a pruner=nuwa --b pruner=visionzip position=pesp
nuwa compare outputs/<name>                                     every run with every other

A choice that one side names holds for the other too; the runs of a pair agree in all choices that no side names.
"""

from __future__ import annotations

import sys
from argparse import ArgumentError, Namespace
from collections.abc import Sequence
from functools import cache
from itertools import combinations
from operator import eq
from pathlib import Path

from nuwa.command import argument, command
from nuwa.evaluation.answers import read_answers
from nuwa.evaluation.journal import JOURNAL, JournalError
from nuwa.evaluation.pairs import Comparison, holm, paired_tests
from nuwa.evaluation.runs import Run, by_key, find_runs
from nuwa.evaluation.statistics import answered_by_both
from nuwa.report.sides import comparable, named_pairs, parse_wanted, sample_titles
from nuwa.report.tables.formats import TableRow
from nuwa.report.tables.runs import RunsTable
from nuwa.report.tables.section import FORMS, Section

Tests = dict[tuple[int, int], tuple[Comparison, float]]
"""Comparisons of runs by the places of the two, each with its p-value corrected for all of them (Holm)."""
FORM = {"first": ".4f", "second": ".4f", "p": ".4f", "p, Holm": ".4f"}
HOLM = "corrected for {} tests (Holm): the chance of even one false finding among them is that of a single test"


def tested(found: Sequence[Comparison]) -> list[TableRow]:
    """Comparisons as rows of a table."""
    return [
        {"metric": row.metric, "n": row.n, "first": row.first, "second": row.second, "p": row.p, "test": row.test}
        for row in found
    ]


def two_runs(first: Path, second: Path) -> Section:
    """Every metric of two runs.

    Raises:
        JournalError: a folder is no run's.
        ValueError: the runs share no scored sample.
    """
    for folder in (first, second):
        if not (folder / JOURNAL).is_file():
            raise JournalError(f"{folder} has no {JOURNAL}: name the folder of a run")
    answers = read_answers(first), read_answers(second)
    rows = tested(paired_tests(*answers))
    if not rows:
        raise ValueError(f"{first} and {second} have no scored sample in common")
    texts = [[row["prediction"] for row in shared] for shared in answered_by_both(*answers)]
    same = f"the same answer, letter by letter: {sum(map(eq, *texts))} of {len(texts[0])}"
    return Section(f"{first.name} and {second.name}", rows, list(rows[0]), [same], number_formats=FORM)


class Sweep:
    """The finished runs below some folders, and their answers."""

    def __init__(self, folders: Sequence[Path]):
        done = {key: found for key, found in by_key(find_runs(*folders)).items() if found[1].done}
        self.folders = {key: folder for key, (folder, _) in done.items()}
        self.runs = [run for _, run in done.values()]
        self.answers = cache(lambda key: read_answers(self.folders[key]))
        if len(self.runs) < 2:
            raise ValueError(f"{', '.join(map(str, folders))}: fewer than two finished runs")

    def headlines(self, one: Run, other: Run) -> list[Comparison]:
        """The tests of the first metric of each task."""
        return paired_tests(self.answers(one.run_key), self.answers(other.run_key), headlines=True)

    def sides(self, a: Sequence[str], b: Sequence[str]) -> Section:
        """The pairs of runs that two sides name; as `named_pairs`."""
        pairs = named_pairs(self.runs, parse_wanted(a), parse_wanted(b))
        table = RunsTable([one for one, _ in pairs])
        rows: list[TableRow] = []
        for one, other in sorted(pairs, key=lambda pair: table.runs.index(pair[0])):
            choices = {name: value for name, value in table.choices(one).items() if name != "method"}
            keys: TableRow = {"first run": one.run_key, "second run": other.run_key}
            rows += [choices | row | keys for row in tested(self.headlines(one, other))]
        if not rows:
            raise ValueError("the runs of the two sides have no scored sample in common")
        for row, p in zip(rows, holm([float(row["p"] or 0) for row in rows]), strict=True):
            row["p, Holm"] = p
        title = f"first: {' '.join(a)}; second: {' '.join(b)}"
        columns = [name for name in rows[0] if name not in ("p, Holm", "test", *keys)] + ["p, Holm", "test", *keys]
        return Section(title, rows, columns, ["p, Holm: " + HOLM.format(len(rows))], number_formats=FORM)

    def matrices(self) -> list[Section]:
        """For each task that several runs answered, the difference of every two of them and its p-value."""
        groups = [RunsTable(group) for group in comparable(self.runs)]
        titles = sample_titles([table.runs[0] for table in groups])
        sections = [
            _matrix_section(f"{metric}: the row's run less the column's ({title})", table, tests)
            for table, title in zip(groups, titles, strict=True)
            for metric, tests in self.tests(table.runs).items()
        ]
        if not sections:
            raise ValueError("no two runs answered the same questions with the same model")
        return sections

    def tests(self, runs: Sequence[Run]) -> dict[str, Tests]:
        """The tests of every two runs, by their places, for each headline that two of them have."""
        found: dict[str, dict[tuple[int, int], Comparison]] = {}
        for i, j in combinations(range(len(runs)), 2):
            for test in self.headlines(runs[i], runs[j]):
                found.setdefault(test.metric, {})[i, j] = test
        return {
            metric: dict(
                zip(tests, zip(tests.values(), holm([test.p for test in tests.values()]), strict=True), strict=True)
            )
            for metric, tests in found.items()
        }


def _matrix_section(title: str, table: RunsTable, tests: Tests) -> Section:
    rows: list[TableRow] = []
    for i, run in enumerate(table.runs):
        row: TableRow = {"": i + 1} | table.choices(run)
        for j in range(len(table.runs)):
            pair = (min(i, j), max(i, j))
            row[str(j + 1)] = _cell(*tests[pair], turned=i > j) if pair in tests else ""
        rows.append(row | {"run": run.run_key})
    return Section(title, rows, list(rows[0]), ["in brackets p, " + HOLM.format(len(tests))])


def _cell(test: Comparison, p: float, turned: bool) -> str:
    """A difference, seen from the second run where it is ``turned``, and its p-value."""
    lead = test.second - test.first if turned else test.first - test.second
    return f"{lead:+.3f} [{p:.2g}]"


@command(
    "Compare runs in pairs.",
    argument("folders", type=Path, nargs="+", help="two runs' folders, or folders below which runs lie"),
    argument("--a", nargs="+", default=[], help="the choices of one side, e.g. pruner=nuwa budget=64"),
    argument("--b", nargs="+", default=[], help="the choices of the other side"),
    argument("--format", choices=FORMS, default="table"),
)
def main(options: Namespace) -> None:
    """Print the p-values of differences between runs; 1 if they cannot be compared."""
    folders = options.folders
    if bool(options.a) != bool(options.b):
        raise ArgumentError(None, "--a and --b name two sides: give both, or none")
    if options.a:
        sections = [Sweep(folders).sides(options.a, options.b)]
    elif len(folders) == 2 and any((folder / JOURNAL).is_file() for folder in folders):
        sections = [two_runs(*folders)]
    else:
        sections = Sweep(folders).matrices()
    for number, section in enumerate(sections):
        print(end="\n" * (number > 0))
        section.show(options.format)


if __name__ == "__main__":
    sys.exit(main())
