"""Runs by their choices, as a person names them: which are meant, and which differ in nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from nuwa.evaluation.runs import Run
from nuwa.report.tables.runs import SHARED_GROUPS, RunsTable, flat_choices

OWN_WORDS = {"budget.average", "budget.ratio", "position.strategy", "model.name", "dataset.name"}
"""Choices that have a word of their own (`Choices.flat`)."""
Wanted = Mapping[str, str]
"""Choice -> value, as on the command line of a run."""


def parse_wanted(words: Sequence[str]) -> dict[str, str]:
    """``["pruner=nuwa", "position=pesp"]`` as a mapping.

    Raises:
        ValueError: a word is no choice.
    """
    wrong = [word for word in words if not all(word.partition("="))]
    if wrong:
        raise ValueError(f"{wrong[0]}: give a choice and its value, e.g. pruner=nuwa")
    return dict(word.split("=", 1) for word in words)


def spellings(run: Run) -> dict[str, set[str]]:
    """What a person may call each choice of a run: ``budget=64``, ``budget=avg64``, ``pruner.d_thresh=280``."""
    choices, flat = run.choices, {key: _spelt(value) for key, value in flat_choices(run).items()}
    budget = {"full"}
    if choices.average is not None:
        budget = {f"{choices.average:g}", f"avg{choices.average:g}"}
    elif choices.ratio is not None:
        budget = {f"{choices.ratio:g}", f"ratio{100 * choices.ratio:g}"}
    position = {choices.strategy} | ({"native"} if choices.position == "native" else set())
    named = {"pruner": {run.method}, "position": position, "budget": budget, "calibration": {choices.calibration}}
    return flat | named | {"dataset": {choices.dataset}, "model": {choices.model}, "run": {run.run_key}}


def _spelt(value: object) -> set[str]:
    """A value as Python and as Hydra spell it: ``False`` and ``false``, ``280.0`` and ``280``."""
    if isinstance(value, float):
        return {str(value), f"{value:g}"}
    return {str(value), str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)}


def selected(runs: Sequence[Run], wanted: Wanted) -> list[Run]:
    """The runs that were made with the wanted choices.

    Raises:
        ValueError: there is no such choice, or no run was made with it; the message has those that there are.
    """
    called = [spellings(run) for run in runs]
    for key, value in wanted.items():
        values = sorted({name for names in called for name in names.get(key, ())})
        if not values:
            raise ValueError(
                f"{key}={value}: no run has this choice; there are {', '.join(sorted(set().union(*called)))}"
            )
        if value not in values:
            raise ValueError(f"{key}={value}: no run was made with it; there are {', '.join(values)}")
    found = [
        run for run, names in zip(runs, called, strict=True) if all(v in names.get(k, ()) for k, v in wanted.items())
    ]
    if not found:
        raise ValueError(f"{' '.join(f'{key}={value}' for key, value in wanted.items())}: no run has all of these")
    return found


def named_pairs(runs: Sequence[Run], a: Wanted, b: Wanted) -> list[tuple[Run, Run]]:
    """The pairs of a run of ``a`` and one of ``b`` that agree in all other choices.

    A choice that one side names holds for the other side too, unless that one names it otherwise.

    Raises:
        ValueError: a side names no run, or no two runs agree.
    """
    named = {*a, *b}
    sides = [selected(runs, wanted) for wanted in ({**a, **b, **a}, {**b, **a, **b})]
    pairs = [(one, other) for one in sides[0] for other in sides[1] if one is not other]
    agreeing = [pair for pair in pairs if not _differences(*pair, named)]
    if not agreeing:
        if not pairs:
            raise ValueError(f"both sides name the run {sides[0][0].run_key}")
        keys = min((_differences(*pair, named) for pair in pairs), key=len)
        raise ValueError(
            f"the runs of the two sides differ in {', '.join(keys)}, too: name these, or run what is missing"
        )
    return agreeing


def comparable(runs: Sequence[Run]) -> Iterator[list[Run]]:
    """The runs that answered the same questions with the same model, in groups of at least two."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        shared = {key: value for key, value in flat_choices(run).items() if key.split(".")[0] in SHARED_GROUPS}
        groups.setdefault(str(sorted(shared.items())), []).append(run)
    return (group for group in groups.values() if len(group) > 1)


def sample_titles(runs: Sequence[Run]) -> list[str]:
    """What each run's samples are called: model, data set, what else of `SHARED_GROUPS` differs, the key if need be."""
    table = RunsTable(runs)
    differs = [
        name for key, name in table.columns.items() if key not in OWN_WORDS and key.split(".")[0] in SHARED_GROUPS
    ]
    titles = []
    for run in runs:
        choices = table.choices(run)
        words = [f"{name} {choices[name]}" for name in differs if choices[name] is not None]
        titles.append(", ".join([run.choices.model, run.choices.dataset, *words]))
    twins = Counter(titles)
    return [f"{title} ({run.run_key})" if twins[title] > 1 else title for title, run in zip(titles, runs, strict=True)]


def _differences(one: Run, other: Run, named: set[str]) -> list[str]:
    """The choices in which two runs differ, but for the named ones and those of named groups."""
    first, second = flat_choices(one), flat_choices(other)
    keys = dict.fromkeys((*first, *second))
    return [key for key in keys if named.isdisjoint((key, key.split(".")[0])) and first.get(key) != second.get(key)]
