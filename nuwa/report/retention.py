"""Mean retention over benchmarks, as the paper prints it: python -m nuwa.report.retention outputs/<name> [more folders]

A benchmark's retention is its headline relative to the unpruned run's, over the samples that both answered; the mean
is over the benchmarks that runs of one method with the same choices have. Intervals (95 %) are paired bootstraps over
samples. A data set with several tasks counts as one benchmark for each.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from hydra.utils import get_object

from nuwa.evaluation.journal import JOURNAL, JournalError, Row, read_rows
from nuwa.evaluation.pairs import Benchmarked, mean_retention
from nuwa.evaluation.result import read_result
from nuwa.evaluation.runs import Result, method_of
from nuwa.report import table
from nuwa.report.formats import Cells
from nuwa.report.sections import Section

CHOICES = ("pruner", "budget", "position", "blocking", "model", "generation", "seed", "limit")
"""What runs of one row have in common; data sets differ."""


@dataclass(frozen=True)
class Part:
    """A benchmark of a run, by the name of its data set, and of its task where that has several."""

    name: str
    folder: Path
    benchmarked: Benchmarked


def parts_of(folder: Path, result: Result, baseline: Path) -> Iterator[Part]:
    """The benchmarks of a run, those that have a score; ``baseline`` is the folder of its unpruned run."""
    options = result["config"]["dataset"]
    aggregate = get_object(options["_target_"]).unloaded(options).metrics
    rows, unpruned = _answered(folder), _answered(baseline)
    tasks = dict.fromkeys(row["task"] for row in rows)
    for task in tasks:
        metric = next((name for name in result["metrics"] if name.startswith(f"{task}/")), None)
        if metric is not None:
            both = [[row for row in one if row["task"] == task] for one in (rows, unpruned)]
            name = options["name"] if len(tasks) == 1 else f"{options['name']} {task}"
            yield Part(name, folder, Benchmarked(*both, aggregate, metric))


def _answered(folder: Path) -> list[Row]:
    return [row for row in read_rows(folder / JOURNAL) if row["status"] == "ok"]


def rows_of(folders: Sequence[Path], wanted: Sequence[str] = ()) -> list[Cells]:
    """One row for each method and its choices; ``wanted`` names the benchmarks that count (none: all).

    Raises:
        ValueError: two runs of one row have the same benchmark, or one of ``wanted`` is in no run.
    """
    rows: dict[str, dict[str, Part]] = {}
    elsewhere = {folder.name: folder for folder in folders}  # runs may come from several machines
    for folder in folders:
        result = read_result(folder) or {}
        if result.get("status") != "done" or result.get("baseline", folder.name) == folder.name:
            continue
        own = rows.setdefault(_choices(result), {})
        baseline = folder.parent / result["baseline"]
        for part in parts_of(folder, result, baseline if baseline.is_dir() else elsewhere.get(baseline.name, baseline)):
            if part.name in own and own[part.name].folder.name != folder.name:
                raise ValueError(f"{own[part.name].folder} and {folder} are both {part.name}; name the one that counts")
            if not wanted or part.name in wanted:
                own[part.name] = part
    names = list(dict.fromkeys(name for own in rows.values() for name in own))
    if lacking := [name for name in wanted if name not in names]:
        raise ValueError(f"no run of {', '.join(lacking)}; there is {', '.join(names) or 'none'}")
    rows = {choices: own for choices, own in rows.items() if own}
    return [shown | _numbers(rows[choices], names) for choices, shown in _shown(rows).items()]


def _choices(result: Result) -> str:
    """A method and the choices that runs of one row share, as JSON."""
    config = {group: result["config"].get(group) for group in CHOICES}
    return json.dumps({"method": method_of(result), "config": config}, sort_keys=True)


def _shown(choices: Iterable[str]) -> dict[str, Cells]:
    """The method and what tells rows apart, as the table of runs shows it and in its order."""
    runs = table.rows_of([json.loads(one) | {"run_key": one} for one in choices])
    return {row["run"]: dict(takewhile(lambda cell: cell[0] != "tokens", row.items())) for row in runs}


def _numbers(parts: dict[str, Part], names: Sequence[str]) -> Cells:
    """The mean and its parts, in percent with their intervals."""
    cells = {"mean retention": _text([part.benchmarked for part in parts.values()]), "benchmarks": str(len(parts))}
    return cells | {name: _text([parts[name].benchmarked]) if name in parts else "" for name in names}


def _text(parts: Sequence[Benchmarked]) -> str:
    try:
        found = mean_retention(parts)
    except ValueError as error:  # nothing right without pruning
        return f"none ({error})"
    return f"{found['value']:.1%} [{found['low']:.1%}, {found['high']:.1%}]"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 1 if there is none."""
    words = argparse.ArgumentParser(prog="python -m nuwa.report.retention", description="Mean retention of methods.")
    words.add_argument("folders", type=Path, nargs="+", help="outputs, outputs/<name>, or runs' folders")
    words.add_argument("--benchmarks", default="", help="those that count, e.g. gqa,pope; without, all that a row has")
    words.add_argument("--format", choices=("table", "markdown", "csv", "latex"), default="table")
    options = words.parse_args(arguments)
    try:
        rows = rows_of(table.find_runs(*options.folders), [name for name in options.benchmarks.split(",") if name])
        if not rows:
            raise ValueError(f"no finished run beside its unpruned run below {', '.join(map(str, options.folders))}")
    except (ValueError, JournalError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    columns = [name for name in rows[0] if any(row[name] for row in rows)]
    Section("mean retention of the unpruned model's scores [95 % interval]", rows, columns).show(options.format)
    return 0


if __name__ == "__main__":
    sys.exit(main())
