"""Which method, budget and position to take, if a score may lose so much: the cheapest, and how sure that is.

    nuwa choose outputs/<name> --metric vqa/exact_match --loss 2% --by ttft

Every finished run beside its unpruned one is an option. What it keeps is measured in pairs, on the samples that all of
them answered; how sure a choice is, is the share of 500 resamples of these samples in which it is the choice as well.
Times are those of `probe=speed`, in the runs themselves or in others of the same choices on the same device, and count
relative to the unpruned model that was timed beside them, because a machine is not always equally fast.
"""

from __future__ import annotations

import json
import sys
from argparse import ArgumentTypeError, Namespace
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nuwa.command import argument, command
from nuwa.evaluation.answers import read_answers
from nuwa.evaluation.frontier import Option, cheapest, front, sureness
from nuwa.evaluation.pairs import rows_behind
from nuwa.evaluation.runs import Run, by_key, find_runs
from nuwa.evaluation.statistics import interval, resampled_ratios
from nuwa.report.figures.fronts import write_front
from nuwa.report.sides import sample_titles
from nuwa.report.tables.formats import TableRow
from nuwa.report.tables.runs import RunsTable
from nuwa.report.tables.section import FORMS, Section, filled_columns
from nuwa.report.tables.speeds import device_of
from nuwa.targets import find_target

TIMES = {"ttft": "ttft_ms", "prefill": "prefill_ms", "decode": "decode_ms_per_token"}
"""Measured costs, and what the speed probe calls them."""
COUNTS = {"tflops": "llm_tflops", "kv": "kv_cache_bytes", "tokens": "tokens_entering"}
"""Counted costs, and what a result calls them."""
_METHOD = ("pruner", "budget", "position", "calibration", "coordinates", "model")


@dataclass(frozen=True)
class Timed(Option):
    """A run as an option."""

    folder: Path = Path()
    run: Run = field(default_factory=Run)


def share(text: str) -> float:
    """A share: ``2%`` or ``0.02``.

    >>> share("2%"), share("0.1")
    (0.02, 0.1)
    """
    with suppress(ValueError):
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        if 0 <= value < 1:
            return value
    raise ArgumentTypeError(f"{text!r} is no share below 1; give 2% or 0.02")


def beside_unpruned(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The pruned ones of finished runs, by the run key of the unpruned run on their samples, which is among them."""
    whole = {run.run_key for run in runs if run.method == "none"}
    groups: dict[str, list[Run]] = {}
    for run in runs:
        if run.baseline and run.baseline in whole - {run.run_key}:
            groups.setdefault(run.baseline, []).append(run)
    return groups


def measured_costs(runs: Iterable[Run], by: str) -> dict[str, float]:
    """What runs of the same choices cost, relative to the unpruned model, by `choices_of`.

    Raises:
        ValueError: times were measured on several devices.
    """
    places: dict[str, str] = {}
    costs: dict[str, float] = {}
    for run in runs:
        found = run.probe.get("speedup", {}).get(TIMES[by])
        if found:
            places.setdefault(device_of(run), run.run_key)
            costs.setdefault(choices_of(run), 1 / found["median"])
    if len(places) > 1:
        shown = "; ".join(f"{key} on {place}" for place, key in places.items())
        raise ValueError(f"--by {by}: times of different devices are not compared ({shown}); name the runs of one")
    return costs


def choices_of(run: Run) -> str:
    """The method, its budget and its positions on a model, whatever it was asked: what a time belongs to, as JSON."""
    config: dict[str, Any] = {group: run.config.get(group) for group in _METHOD}
    return json.dumps({"method": run.method, **config}, sort_keys=True, default=str)


def costs_of(runs: Sequence[Run], whole: Run, by: str, timed: Iterable[Run]) -> dict[str, float]:
    """The cost of each run and of the unpruned one, relative to the latter, by run key."""
    if by in TIMES:
        found = measured_costs(timed, by)
        costs = {run.run_key: found[choices_of(run)] for run in runs if choices_of(run) in found}
        return costs | {whole.run_key: 1.0} if costs else {}
    counts = {run.run_key: getattr(run, COUNTS[by]) for run in (*runs, whole)}
    full = counts[whole.run_key]
    return {key: count / full for key, count in counts.items() if full and count is not None}


def options_for(
    folders: Mapping[str, Path], runs: Sequence[Run], whole: Run, metric: str, costs: Mapping[str, float]
) -> tuple[list[Timed], int]:
    """The runs with a cost, and the unpruned one, as options; and on how many samples they are compared.

    Raises:
        ValueError: no sample was answered by all of them, or the metric is 0 without pruning.
    """
    chosen = [run for run in runs if run.run_key in costs]
    config = whole.config["dataset"]
    benchmark = find_target(config.get("_target_"), "dataset").unloaded(config)
    answers = {
        run.run_key: {row["id"]: row for row in rows_behind(metric, read_answers(folders[run.run_key]), benchmark)}
        for run in (*chosen, whole)
    }
    common = sorted(set.intersection(*(set(rows) for rows in answers.values())))
    if not common:
        raise ValueError(f"{metric}: no sample was answered by all runs of {whole.model} on {whole.dataset}")
    unpruned, options = [answers[whole.run_key][name] for name in common], []
    for run in (*chosen, whole):
        kept = resampled_ratios([answers[run.run_key][name] for name in common], unpruned, benchmark)
        if metric not in kept:
            raise ValueError(f"{metric} is 0 without pruning: nothing can be said of what is lost")
        value, draws = kept[metric]
        options.append(Timed(costs[run.run_key], value, tuple(draws), folders[run.run_key], run))
    return options, len(common)


def choice_section(options: Sequence[Timed], asked: Namespace, samples: int, title: str) -> Section:
    """The front of a set of options (``asked.all``: all of them), the choice, and how to use it."""
    best, shown = front(options), list(options) if asked.all else front(options)
    chosen = cheapest(options, asked.loss)
    table = RunsTable([option.run for option in options])
    rows: list[TableRow] = []
    for option in sorted(shown, key=lambda one: (one.cost, -one.keeps)):
        low, high = interval(option.draws).values()
        lost = f"{1 - option.keeps:.1%}" + ("" if low == high else f" [{1 - high:.1%}, {1 - low:.1%}]")
        row = table.choices(option.run) | {"position": option.run.position or "", "tokens": option.run.tokens_entering}
        row |= {f"{asked.by}, unpruned = 1": option.cost, "loss": lost}
        row |= {"chosen in": f"{sureness(options, option, asked.loss):.0%}"}
        row |= {"front": "yes" if option in best else ""} if asked.all else {}
        rows.append(row | {"": "<- choice" if option is chosen else ""})
    title = f"{title}: {asked.metric}, at most {asked.loss:.1%} lost"
    remarks = [f"{samples} samples that all {len(options)} runs answered; loss with its 95 % interval"]
    forms = {"tokens": ".1f", f"{asked.by}, unpruned = 1": ".3f"}
    return Section(title, rows, filled_columns(rows), remarks + how_to_use(chosen), number_formats=forms)


def how_to_use(chosen: Timed | None) -> list[str]:
    """Where the command and the Python lines of a choice are, in one line."""
    if chosen is None or chosen.run.method == "none":
        return ["no method stays within the loss: run the model unpruned, or allow more"]
    return [f"how to use the choice: nuwa export {chosen.folder}"]


@command(
    "The cheapest way of pruning within a loss.",
    argument("folders", type=Path, nargs="+", help="outputs/<name>, or runs' folders"),
    argument("--metric", default="", help="the score that counts, e.g. vqa/exact_match (default: the only headline)"),
    argument("--loss", type=share, default=0.02, help="what may be lost of it, relative: 2%% (the default) or 0.02"),
    argument("--by", choices=(*TIMES, *COUNTS), default="tflops", help="the cost that is to be small"),
    argument("--all", action="store_true", help="every run, not only those that no other one beats"),
    argument("--plot", type=Path, help="folder for plots of score against cost, PNG and SVG (needs the extra plots)"),
    argument("--format", choices=FORMS, default="table"),
)
def main(options: Namespace) -> None:
    """Print one table for each model and data set; 1 if there is nothing to choose from."""
    found = {key: pair for key, pair in by_key(find_runs(*options.folders)).items() if pair[1].done}
    folders = {key: folder for key, (folder, _) in found.items()}
    runs = {key: run for key, (_, run) in found.items()}
    done = [*runs.values()]
    groups = beside_unpruned(done)
    groups = {name: own for name, own in groups.items() if options.metric in ("", *runs[name].metrics)}
    if not groups:
        place, metric = ", ".join(map(str, options.folders)), options.metric or "a score"
        raise ValueError(f"no finished run with {metric} beside its unpruned run below {place}")
    titles = sample_titles([runs[name] for name in groups])
    for number, (name, title) in enumerate(zip(groups, titles, strict=True)):
        print(end="\n" * (number > 0))
        _choose(Namespace(**vars(options), title=title), folders, groups[name], runs[name], done)


def _choose(asked: Namespace, folders: Mapping[str, Path], runs: Sequence[Run], whole: Run, done: list[Run]) -> None:
    """Show the choice among the runs that have one unpruned run."""
    names = list(whole.headlines.values())
    if not asked.metric and len(names) > 1:
        raise ValueError(f"{whole.dataset} has several scores; choose with --metric: {', '.join(names)}")
    asked.metric = asked.metric or names[0]
    costs = costs_of(runs, whole, asked.by, [run for run in done if run.model == whole.model])
    if not costs:
        raise ValueError(f"--by {asked.by}: no run of {whole.model} measured it; add probe=speed, or choose another")
    options, samples = options_for(folders, runs, whole, asked.metric, costs)
    section = choice_section(options, asked, samples, asked.title)
    section.show(asked.format)
    if without := [run.run_key for run in runs if run.run_key not in costs]:
        print(f"left out, as {asked.by} is not known: {', '.join(without)}", file=sys.stderr)
    for path in write_front(options, asked) if asked.plot else ():
        print(f"wrote {path}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
