"""Where pruning hurts: what every method retains of each ability of the unpruned model.

    nuwa profile outputs/<name> [more folders] [--plot folder]

An ability (`nuwa.benchmarks.abilities`) is the mean over the benchmarks that ask for it, each relative to its unpruned
run, over the samples that both answered; intervals (95 %) are paired bootstraps over samples.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nuwa.benchmarks.abilities import ABILITIES, ability_of
from nuwa.command import argument, command
from nuwa.evaluation.pairs import Benchmarked, mean_retention
from nuwa.evaluation.runs import Run, find_runs
from nuwa.report.figures.abilities import Kept, write_profile
from nuwa.report.labels import method_label, model_label, position_label
from nuwa.report.retention import benchmark_parts, parts_by_method, row_choices, table_of
from nuwa.report.tables.formats import TableRow
from nuwa.report.tables.section import FORMS, Section, filled_columns


def ability_parts(folder: Path, run: Run, baseline: Path) -> Iterator[tuple[str, Benchmarked]]:
    """The benchmarks of a run, one for each ability that its samples ask for."""
    dataset = run.config["dataset"]["name"]
    for _, part in benchmark_parts(folder, run, baseline):
        for ability in ABILITIES:
            ours, whole = (
                [row for row in rows if ability_of(dataset, row) == ability] for rows in (part.rows, part.unpruned)
            )
            if ours and whole:
                yield ability, Benchmarked(ours, whole, part.benchmark, part.metric)


@dataclass(frozen=True)
class Profile:
    """A method with its choices, and what it retains of each ability it was asked for."""

    run: Run
    kept: dict[str, Kept]


def profiles(folders: Sequence[Path]) -> list[Profile]:
    """One for each method and its choices, as a table of runs orders them."""
    found: dict[str, dict[str, list[Benchmarked]]] = {}
    for choices, parts in parts_by_method(folders, ability_parts).items():
        for ability, _, part in parts:
            found.setdefault(choices, {}).setdefault(ability, []).append(part)
    return [
        Profile(run, {ability: _kept(own[ability]) for ability in ABILITIES if ability in own})
        for run in table_of([*found]).runs
        for own in [found[row_choices(run)]]
    ]


def _kept(parts: Sequence[Benchmarked]) -> Kept:
    try:
        return Kept(**mean_retention(parts), samples=sum(len(part.rows) for part in parts))
    except ValueError:  # nothing right without pruning
        return Kept(samples=sum(len(part.rows) for part in parts))


def profile_section(found: Sequence[Profile]) -> Section:
    """A row for each method, a column for each ability."""
    table = table_of([row_choices(one.run) for one in found])
    asked = [ability for ability in ABILITIES if any(ability in one.kept for one in found)]
    rows: list[TableRow] = []
    for one in found:
        cells: TableRow = {ability: str(one.kept[ability]) if ability in one.kept else "" for ability in asked}
        rows.append(table.choices(one.run) | cells)
    counts = ", ".join(f"{ability} {_most(found, ability)}" for ability in asked)
    title = "retained of the unpruned model, by ability [95 % interval]"
    return Section(title, rows, filled_columns(rows), [f"samples: {counts}"])


def _most(found: Sequence[Profile], ability: str) -> int:
    return max(one.kept[ability].samples for one in found if ability in one.kept)


def named(found: Sequence[Profile]) -> dict[str, dict[str, Kept]]:
    """What is retained by method and its choices in words, with the model where there are several."""
    several = len({one.run.choices.model for one in found}) > 1
    rows: dict[str, dict[str, Kept]] = {}
    for one in found:
        choices = one.run.choices
        method, *others = choices.title.split(" ")[:-1]
        words = [position_label(word) if word == choices.strategy else word for word in others]
        name = " ".join([*[model_label(choices.model)] * several, method_label(method), *words])
        rows[f"{name} ({one.run.run_key})" if name in rows else name] = one.kept
    return rows


@command(
    "What methods retain, by ability.",
    argument("folders", type=Path, nargs="+", help="outputs, outputs/<name>, or runs' folders"),
    argument("--plot", type=Path, help="folder for the figure, PNG and SVG (needs the extra plots)"),
    argument("--format", choices=FORMS, default="table"),
)
def main(options: Namespace) -> None:
    """Print the table; 1 if there is none."""
    found = profiles(find_runs(*options.folders))
    if not found:
        raise ValueError(f"no finished run beside its unpruned run below {', '.join(map(str, options.folders))}")
    profile_section(found).show(options.format)
    if options.plot:
        for path in write_profile(named(found), options.plot):
            print(f"wrote {path}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
