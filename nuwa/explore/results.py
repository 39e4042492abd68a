"""What the Results tab shows, as plain data: a row for each run, costs against quality, tests in pairs.

The numbers are those of `nuwa report`, `nuwa choose` and `nuwa compare`, made by their functions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from nuwa.evaluation.frontier import front
from nuwa.evaluation.runs import Run, collect
from nuwa.evaluation.scores import RunScore
from nuwa.evaluation.statistics import interval
from nuwa.report.choose import COUNTS, TIMES, Timed, beside_unpruned, costs_of, options_for
from nuwa.report.compare import HOLM, Sweep
from nuwa.report.figures.points import error_interval, grouped
from nuwa.report.labels import labels_of
from nuwa.report.sides import OWN_WORDS, comparable, sample_titles
from nuwa.report.tables.runs import RunsTable
from nuwa.report.tables.speeds import device_of


def results_of(folders: Sequence[Path]) -> dict[str, Any]:
    """All that the tab shows about the runs in some folders, ready for JSON.

    - ``runs``: a row for each (`_row`), the unpruned one first, whatever became of it.
    - ``headlines``: the metrics that count, and ``metrics``: all of them.
    - ``fronts``: of each model, data set, headline and cost, what runs keep of the unpruned one's score (`_fronts`).
    - ``tests``: for each group of runs on the same samples, and each headline, the tests of every two (`_tests`).
    """
    table = RunsTable(collect(folders))
    some = [run for run in table.runs if run.done]
    sweep = Sweep(folders) if len(some) > 1 else None
    names = _names(some)
    return {
        "runs": [_row(run, names.get(run.run_key, run.run_key), table) for run in table.runs],
        "headlines": table.metrics,
        "metrics": list(dict.fromkeys([*table.metrics, *(name for run in table.runs for name in run.metrics)])),
        "fronts": [*_fronts(sweep)] if sweep else [],
        "tests": [*_tests(sweep)] if sweep else [],
    }


def _names(runs: Sequence[Run]) -> dict[str, str]:
    """Names of runs by key, told apart within a data set as the Samples tab does."""
    groups = grouped(runs, lambda run: run.choices.dataset).values()
    return {run.run_key: name for group in groups for run, name in zip(group, labels_of(group), strict=True)}


def _row(run: Run, name: str, table: RunsTable) -> dict[str, Any]:
    """A run: its choices, those in which runs of its method differ, scores and retentions, costs, and what went wrong.

    Scores and retentions are ``[value, low, high]`` with the 95 % interval, by metric; ``kv`` is in bytes, times in ms.
    """
    words = run.choices.flat if run.config else dict.fromkeys(run.choices.flat, "")  # cut short: nothing is known
    other = {name for key, name in table.columns.items() if key not in OWN_WORDS}
    scores = [RunScore(run, name) for name in run.metrics]
    return {
        "run": run.run_key,
        "name": name,
        **words,
        "method": run.method,
        "differs": {name: value for name, value in table.choices(run).items() if name in other},
        "unpruned": run.baseline,
        "scores": {score.metric: _with_interval(score) for score in scores},
        "kept": {s.metric: [s.retained[end] for end in ("value", "low", "high")] for s in scores if s.retained},
        "tokens": run.tokens_entering,
        "tflops": run.llm_tflops,
        "kv": run.kv_cache_bytes,
        "device": device_of(run) if run.times else "",
        "times": {by: run.times[name] for by, name in TIMES.items() if name in run.times},
        "n": run.n,
        "failed": run.n_failed,
        "status": run.status,
        "remark": run.reason or run.warning,
    }


def _with_interval(score: RunScore) -> list[float]:
    value = score.run.metrics[score.metric]
    return [value, *(score.interval or error_interval(value, score.error or 0.0))]


def _fronts(sweep: Sweep) -> Iterator[dict[str, Any]]:
    """What runs keep of their unpruned run's headlines, against each of their costs."""
    groups, runs_by_key = beside_unpruned(sweep.runs), {run.run_key: run for run in sweep.runs}
    for name, title in zip(groups, sample_titles([runs_by_key[name] for name in groups]), strict=True):
        whole = runs_by_key[name]
        for metric in whole.headlines.values():
            kept = cache(partial(_kept, sweep, groups[name], whole, metric))
            for by, device, costs in _costs(groups[name], whole, sweep.runs):
                named = {"title": title, "metric": metric, "by": by, "device": device}
                try:
                    options, samples = kept(frozenset(costs))
                except (ValueError, OSError) as error:  # nothing right without pruning, or answers are not there
                    yield named | {"points": [], "note": str(error)}
                else:
                    points = _points([replace(one, cost=costs[one.run.run_key]) for one in options])
                    yield named | {"points": points, "samples": samples}


def _kept(sweep: Sweep, runs: Sequence[Run], whole: Run, metric: str, keys: frozenset[str]) -> tuple[list[Timed], int]:
    """What the runs of some keys retain, whatever they cost: one bootstrap for all costs."""
    return options_for(sweep.folders, runs, whole, metric, dict.fromkeys(keys, 1.0))


def _costs(runs: Sequence[Run], whole: Run, every: Sequence[Run]) -> Iterator[tuple[str, str, Mapping[str, float]]]:
    """Costs relative to the unpruned run, by run key: which, where they were measured, and the numbers.

    Times are of one device each, in ``every`` run of the model.
    """
    timed = [run for run in every if run.model == whole.model and run.probe.get("speedup")]
    ways = [(by, "", timed) for by in COUNTS]
    ways += [(by, device, some) for device, some in grouped(timed, device_of).items() for by in TIMES]
    for by, device, some in ways:
        costs = costs_of(runs, whole, by, some)
        if len(costs) > 1:
            yield by, device, costs


def _points(options: Sequence[Timed]) -> list[dict[str, Any]]:
    """Each run's cost, what it keeps with its 95 % interval, and whether no other one beats it (`front`)."""
    best = {option.run.run_key for option in front(options)}
    return [
        {"run": one.run.run_key, "cost": one.cost, "kept": one.keeps, "front": one.run.run_key in best}
        | interval(one.draws)
        for one in options
    ]


def _tests(sweep: Sweep) -> Iterator[dict[str, Any]]:
    """Of each group of runs on the same samples, ``pairs`` of places among ``runs`` with the test of their difference.

    ``p`` is corrected for all tests of a headline, which ``note`` says.
    """
    groups = [RunsTable(group).runs for group in comparable(sweep.runs)]
    for runs, title in zip(groups, sample_titles([group[0] for group in groups]), strict=True):
        named = {"title": title, "runs": [run.run_key for run in runs]}
        try:
            found, note = sweep.tests(runs), "no sample was answered by two of these runs"
        except (ValueError, OSError) as error:
            found, note = {}, str(error)
        if not found:
            yield named | {"metric": "", "pairs": [], "note": note}
        for metric, tests in found.items():
            pairs = [
                {"pair": pair, "n": test.n, "first": test.first, "second": test.second, "p": p, "test": test.test}
                for pair, (test, p) in tests.items()
            ]
            yield named | {"metric": metric, "pairs": pairs, "note": HOLM.format(len(tests))}
