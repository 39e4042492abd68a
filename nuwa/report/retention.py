"""Mean retention over benchmarks, as the paper prints it: nuwa retention outputs/<name> [more folders]

A benchmark's retention is its headline relative to the unpruned run's, over the samples that both answered; the mean
is over the benchmarks that runs of one method with the same choices have. Intervals (95 %) are paired bootstraps over
samples. A data set with several tasks counts as one benchmark for each.
"""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from nuwa.command import argument, command
from nuwa.evaluation.answers import read_answers
from nuwa.evaluation.pairs import Benchmarked, mean_retention
from nuwa.evaluation.runs import Run, by_key, find_runs
from nuwa.report.tables.formats import TableRow
from nuwa.report.tables.runs import CHOICE_GROUPS, RunsTable
from nuwa.report.tables.section import FORMS, Section, filled_columns
from nuwa.targets import find_target

Name = TypeVar("Name")


def benchmark_parts(folder: Path, run: Run, baseline: Path) -> Iterator[tuple[str, Benchmarked]]:
    """The benchmarks of a run, those that have a score; ``baseline`` is the folder of its unpruned run.

    Each has the name of its data set, and of its task where that has several.
    """
    options = run.config["dataset"]
    benchmark = find_target(options.get("_target_"), "dataset").unloaded(options)
    rows, unpruned = read_answers(folder), read_answers(baseline)
    tasks = dict.fromkeys(row["task"] for row in rows)
    for task in tasks:
        if task in run.headlines:
            ours, whole = ([row for row in one if row["task"] == task] for one in (rows, unpruned))
            name = options["name"] if len(tasks) == 1 else f"{options['name']} {task}"
            yield name, Benchmarked(ours, whole, benchmark, run.headlines[task])


def parts_by_method(
    folders: Sequence[Path], find_parts: Callable[[Path, Run, Path], Iterable[tuple[Name, Benchmarked]]]
) -> dict[str, list[tuple[Name, Benchmarked]]]:
    """What ``find_parts`` finds in every finished run beside its unpruned one, by `row_choices`; of copies in one.

    Raises:
        ValueError: two runs of one row have the same data set.
    """
    rows: dict[str, list[tuple[Name, Benchmarked]]] = {}
    places: dict[tuple[str, str], Path] = {}
    found = by_key(folders)
    for folder, run in found.values():
        if not run.done or run.baseline in (None, run.run_key):
            continue
        choices, dataset = row_choices(run), run.choices.dataset
        known = places.setdefault((choices, dataset), folder)
        if known != folder:
            raise ValueError(f"{known} and {folder} are both {dataset}; name the one that counts")
        baseline = folder.parent / str(run.baseline)
        if not baseline.is_dir():  # runs may come from several machines
            baseline = found.get(baseline.name, (baseline,))[0]
        rows[choices] = [*rows.get(choices, ()), *find_parts(folder, run, baseline)]
    return rows


def row_choices(run: Run) -> str:
    """A method and the choices that runs of one row share, as JSON."""
    config = {group: run.config.get(group) for group in CHOICE_GROUPS if group != "dataset"}
    return json.dumps({"method": run.method, "config": config}, sort_keys=True)


def table_of(choices: Sequence[str]) -> RunsTable:
    """A table whose rows are `row_choices`."""
    return RunsTable([Run.of(json.loads(own)) for own in choices])


def mean_rows(folders: Sequence[Path], wanted: Sequence[str] = ()) -> list[TableRow]:
    """One row for each method and its choices; ``wanted`` names the benchmarks that count (none: all).

    Of a data set with several tasks, ``scenes`` names all and ``scenes vg`` one.

    Raises:
        ValueError: one of ``wanted`` is in no run; and as `parts_by_method`.
    """
    rows: dict[str, dict[str, Benchmarked]] = {}
    there: dict[str, set[str]] = {}  # what each benchmark may be called
    for choices, found in parts_by_method(folders, benchmark_parts).items():
        for name, part in found:
            there[name] = {name, name.partition(" ")[0]}
            if not wanted or there[name] & {*wanted}:
                rows.setdefault(choices, {})[name] = part
    names = list(dict.fromkeys(name for own in rows.values() for name in own))
    if lacking := [name for name in wanted if name not in set().union(*there.values())]:
        raise ValueError(f"no run of {', '.join(lacking)}; there is {', '.join(there) or 'none'}")
    table = table_of([*rows])
    return [table.choices(run) | _numbers(rows[row_choices(run)], names) for run in table.runs]


def _numbers(parts: dict[str, Benchmarked], names: Sequence[str]) -> TableRow:
    """The mean and its parts, in percent with their intervals."""
    mean = retention_text([*parts.values()])
    own = {name: retention_text([parts[name]]) if name in parts else "" for name in names}
    return {"mean retention": mean, "benchmarks": len(parts), **own}


def retention_text(parts: Sequence[Benchmarked]) -> str:
    """The mean retention of benchmarks in percent, with its interval; why there is none."""
    try:
        found = mean_retention(parts)
    except ValueError as error:  # nothing right without pruning
        return f"none ({error})"
    return f"{found['value']:.1%} [{found['low']:.1%}, {found['high']:.1%}]"


@command(
    "Mean retention of methods.",
    argument("folders", type=Path, nargs="+", help="outputs, outputs/<name>, or runs' folders"),
    argument("--benchmarks", default="", help="those that count, e.g. gqa,pope; without, all that a row has"),
    argument("--format", choices=FORMS, default="table"),
)
def main(options: Namespace) -> None:
    """Print the table; 1 if there is none."""
    rows = mean_rows(find_runs(*options.folders), [name for name in options.benchmarks.split(",") if name])
    if not rows:
        raise ValueError(f"no finished run beside its unpruned run below {', '.join(map(str, options.folders))}")
    title = "mean retention of the unpruned model's scores [95 % interval]"
    Section(title, rows, filled_columns(rows)).show(options.format)


if __name__ == "__main__":
    sys.exit(main())
