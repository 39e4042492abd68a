"""Where pruning hurts: what every method retains of each ability of the unpruned model.

    nuwa profile outputs/<name> [more folders] [--parts] [--plot folder]

An ability (`nuwa.benchmarks.abilities`) is the mean over the benchmarks that ask for it, each relative to its unpruned
run, over the samples that both answered; intervals (95 %) are paired bootstraps over samples. Its parts are what these
benchmarks tell apart, sizes, kinds or sources, and the benchmarks that tell nothing apart.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from nuwa.benchmarks.abilities import ABILITIES, ability_of
from nuwa.command import argument, command
from nuwa.evaluation.pairs import Benchmarked, mean_retention, rows_behind
from nuwa.evaluation.runs import Run, find_runs
from nuwa.evaluation.scores import RunScore, parts_of
from nuwa.report.figures.abilities import Asked, Kept, asked_of, write_profile
from nuwa.report.labels import method_label, model_label, position_label
from nuwa.report.retention import benchmark_parts, parts_by_method, row_choices, table_of
from nuwa.report.tables.formats import TableRow
from nuwa.report.tables.section import FORMS, Section, filled_columns


def ability_parts(in_parts: bool, folder: Path, run: Run, baseline: Path) -> Iterator[tuple[Asked, Benchmarked]]:
    """The benchmarks of a run, one for each ability that its samples ask for; ``in_parts``: and their parts."""
    dataset = run.config["dataset"]["name"]
    for name, part in benchmark_parts(folder, run, baseline):
        for ability in ABILITIES:
            ours, whole = (
                [row for row in rows if ability_of(dataset, row) == ability] for rows in (part.rows, part.unpruned)
            )
            if ours and whole:
                own = Benchmarked(ours, whole, part.benchmark, part.metric)
                yield (ability, ""), own
                parts = _parts(own, parts_of(part.metric, run.metrics)) or {name: own} if in_parts else {}
                yield from (((ability, label), one) for label, one in parts.items())


def _parts(part: Benchmarked, metrics: Sequence[str]) -> dict[str, Benchmarked]:
    """A benchmark by those of ``metrics`` that its rows have a share in."""
    found = {}
    for metric in metrics:
        ours, whole = (rows_behind(metric, rows, part.benchmark) for rows in (part.rows, part.unpruned))
        if ours and whole:
            found[RunScore(Run(), metric).subject] = Benchmarked(ours, whole, part.benchmark, metric)
    return found


@dataclass(frozen=True)
class Profile:
    """A method with its choices, and what it retains of what it was asked for."""

    run: Run
    kept: dict[Asked, Kept]


def profiles(folders: Sequence[Path], in_parts: bool = False) -> list[Profile]:
    """One for each method and its choices, as a table of runs orders them; ``in_parts``: of each ability's parts, too.

    Raises:
        ValueError: as `parts_by_method`.
    """
    found: dict[str, dict[Asked, list[Benchmarked]]] = {}
    for choices, parts in parts_by_method(folders, partial(ability_parts, in_parts)).items():
        for asked, part in parts:
            found.setdefault(choices, {}).setdefault(asked, []).append(part)
    known = list(dict.fromkeys(asked for own in found.values() for asked in own))
    shown = [one for ability in ABILITIES for one in _shown([asked for asked in known if asked[0] == ability])]
    return [
        Profile(run, {asked: _kept(own[asked]) for asked in shown if asked in own})
        for run in table_of([*found]).runs
        for own in [found[row_choices(run)]]
    ]


def _shown(asked: Sequence[Asked]) -> Sequence[Asked]:
    """An ability, which comes first, with its parts if there are several."""
    return asked if len(asked) > 2 else asked[:1]


def _kept(parts: Sequence[Benchmarked]) -> Kept:
    try:
        return Kept(**mean_retention(parts), samples=sum(len(part.rows) for part in parts))
    except ValueError:  # nothing right without pruning
        return Kept(samples=sum(len(part.rows) for part in parts))


def profile_section(found: Sequence[Profile]) -> Section:
    """A row for each method, a column for each ability, and for each of its parts if there are any."""
    table = table_of([row_choices(one.run) for one in found])
    columns = {asked: ": ".join(filter(None, asked)) for asked in asked_of(one.kept for one in found)}
    rows: list[TableRow] = []
    for one in found:
        cells: TableRow = {name: str(one.kept[asked]) if asked in one.kept else "" for asked, name in columns.items()}
        rows.append(table.choices(one.run) | cells)
    counts = ", ".join(f"{name} {_most(found, asked)}" for asked, name in columns.items())
    title = "retained of the unpruned model, by ability [95 % interval]"
    return Section(title, rows, filled_columns(rows), [f"samples: {counts}"])


def _most(found: Sequence[Profile], asked: Asked) -> int:
    return max(one.kept[asked].samples for one in found if asked in one.kept)


def named(found: Sequence[Profile]) -> dict[str, dict[Asked, Kept]]:
    """What is retained by method and its choices in words, with the model where there are several."""
    several = len({one.run.choices.model for one in found}) > 1
    rows: dict[str, dict[Asked, Kept]] = {}
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
    argument("--parts", action="store_true", help="of each ability its parts, too: sizes, kinds, sources, data sets"),
    argument("--plot", type=Path, help="folder for the figure, PNG and SVG (needs the extra plots)"),
    argument("--format", choices=FORMS, default="table"),
)
def main(options: Namespace) -> None:
    """Print the table; 1 if there is none."""
    found = profiles(find_runs(*options.folders), options.parts)
    if not found:
        raise ValueError(f"no finished run beside its unpruned run below {', '.join(map(str, options.folders))}")
    profile_section(found).show(options.format)
    if options.plot:
        for path in write_profile(named(found), options.plot):
            print(f"wrote {path}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
