"""One table from many runs: what each answered, how sure that is, what it cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from nuwa.evaluation.runs import Run
from nuwa.evaluation.scores import RunScore, headlines
from nuwa.report.tables.formats import CellValue, TableRow, value_text
from nuwa.report.tables.section import Section, filled_columns

CHOICE_GROUPS = (
    "pruner", "budget", "position", "calibration", "coordinates", "blocking", "model", "dataset", "generation", "seed",
    "limit",
)  # fmt: skip
SHARED_GROUPS = ("model", "dataset", "generation", "seed", "limit", "protocol")
"""Groups in which a run and its unpruned run agree."""
NUMBER_FORMATS = {"tokens": ".1f", "leaving": ".1f", "LLM TFLOPs": ".4g", "metric MFLOPs": ".3g", "s/sample": ".3f"}


class RunsTable:
    """Runs as rows of the same columns: the unpruned run first, then by method and choices.

    ``full`` gives 95 % intervals in place of standard errors, and more of the costs in place of times; ``parts`` the
    metrics of a task's parts, too.
    """

    def __init__(self, runs: Sequence[Run], full: bool = False, parts: bool = False):
        self.columns = _choice_columns(runs)
        self.runs = sorted(runs, key=self._rank)
        self.full = full
        self.metrics = headlines(self.runs, parts)

    def rows(self) -> list[TableRow]:
        """One row for each run."""
        return [
            self.choices(run)
            | self._tokens(run)
            | self._scores(run)
            | self._unread(run)
            | self._costs(run)
            | _outcome(run)
            for run in self.runs
        ]

    def beside(self, choice: str) -> list[TableRow]:
        """One row for runs that differ in ``choice`` alone, each metric once for each of its values.

        Costs in which these runs differ stand one after the other.

        Raises:
            ValueError: the runs do not differ in ``choice``.
        """
        if choice not in self.columns.values():
            known = ", ".join(self.columns.values()) or "their methods"
            raise ValueError(f"--beside {choice}: runs differ in {known} only")
        values = list(dict.fromkeys(self._value(run, choice) for run in self.runs))
        groups: dict[tuple[CellValue, ...], dict[str, Run]] = {}
        for run in self.runs:
            key = tuple(value for name, value in self.choices(run).items() if name != choice)
            while self._value(run, choice) in groups.setdefault(key, {}):  # cut short: nothing is known of its choices
                key += ("again",)
            groups[key][self._value(run, choice)] = run
        return [self._merged(group, choice, values) for group in groups.values()]

    def choices(self, run: Run) -> TableRow:
        """The method of a run, and its choices as far as runs differ in them."""
        flat = flat_choices(run)
        return {"method": run.method} | {name: _plain(flat.get(key)) for key, name in self.columns.items()}

    def _value(self, run: Run, choice: str) -> str:
        return value_text(self.choices(run)[choice])

    def _merged(self, group: dict[str, Run], choice: str, values: Sequence[str]) -> TableRow:
        first = min(group.values(), key=lambda run: run.done)  # what went wrong is not to be hidden
        row = {name: value for name, value in self.choices(first).items() if name != choice}
        row |= _shared([self._tokens(run) for run in group.values()])
        for metric in self.metrics:
            for value in values:
                shown = self._score(RunScore(group[value], metric)) if value in group else ""
                row[f"{metric}, {value}" if value else metric] = shown
        row |= _shared([self._unread(run) | self._costs(run) for run in group.values()])
        return row | _outcome(first) | {"run": " / ".join(run.run_key for run in group.values())}

    def _rank(self, run: Run) -> tuple:
        """Sorts runs: numbers by size, texts by letter, missing values first."""
        values = map(flat_choices(run).get, self.columns)
        ranks = [(0, v, "") if isinstance(v, int | float) else (v is not None, 0, str(v)) for v in values]
        return run.method != "none", run.method, ranks

    def _tokens(self, run: Run) -> TableRow:
        row: TableRow = {"tokens": run.tokens_entering}
        return row | {"leaving": run.tokens_leaving} if self.full else row

    def _scores(self, run: Run) -> TableRow:
        scores = [RunScore(run, name) for name in self.metrics]
        row: TableRow = {score.metric: self._score(score) for score in scores}
        return row | {f"{score.subject} retained": _retained(score) for score in scores}

    def _unread(self, run: Run) -> TableRow:
        """The share of answers that the scores fail or leave out because nothing could be read in them, if any."""
        scores = [RunScore(run, name) for name in self.metrics]
        return {f"{score.task} unread": f"{score.unread:.1%}" if score.unread else "" for score in scores}

    def _score(self, score: RunScore) -> str:
        """A metric with its standard error; or with its 95 % interval, as where all samples agree: no error is 0."""
        if score.value is None:
            return ""
        if score.interval and (self.full or not score.error):
            low, high = score.interval
            return f"{score.value:.3f} [{low:.3f}, {high:.3f}]"
        return f"{score.value:.3f}" + (f" ±{score.error:.3f}" if score.error else "")

    def _costs(self, run: Run) -> TableRow:
        other: TableRow = {"metric MFLOPs": run.metric_mflops}
        if not self.full:
            other = {"s/sample": run.timings.get("seconds_per_sample")}
        answered = f"{run.n} ({run.n_failed} failed)" if run.n_failed else run.n
        return {"LLM TFLOPs": run.llm_tflops} | other | {"n": answered}


def runs_section(runs: Sequence[Run], title: str, full: bool = False, choice: str = "", parts: bool = False) -> Section:
    """Every run, whatever became of it; ``full`` and ``parts`` as in `RunsTable`, ``choice`` as in its `beside`."""
    table = RunsTable(runs, full, parts)
    rows = table.beside(choice) if choice else table.rows()
    all_done = all(row["status"] == "done" for row in rows)
    columns = filled_columns(rows, hidden=("reason", "status") if all_done else ("reason",))
    warnings = [f"{run.run_key}: {run.warning}" for run in runs if run.warning]
    keys = sum(name in columns for name in table.choices(table.runs[0]) if name != choice)
    return Section(title, rows, columns, [*_reasons(rows), *warnings], number_formats=NUMBER_FORMATS, keys=keys)


def runs_sections(
    runs: Sequence[Run], title: str, full: bool = False, choice: str = "", parts: bool = False
) -> list[Section]:
    """A table for each model and data set; the values of the ``choice`` side by side wherever runs differ in it."""
    groups = by_model_and_dataset(runs, choice)
    varied = {group: choice in _choice_columns(own).values() for group, own in groups.items()}
    if choice and not any(varied.values()):  # runs differ in it between tables only, or nowhere
        return [runs_section(runs, title, full, choice, parts)]
    named = {group: f"{title}: {', '.join(filter(None, group))}".removesuffix(": ") for group in groups}
    return [
        runs_section(own, named[group], full, choice if varied[group] else "", parts) for group, own in groups.items()
    ]


def by_model_and_dataset(runs: Sequence[Run], together: str = "") -> dict[tuple[str, str], list[Run]]:
    """Runs that can stand in one table; those that differ in ``together``, ``model`` or ``dataset``, do so, too."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        model, dataset = run.choices.model, run.choices.dataset
        key = "" if together == "model" else model, "" if together == "dataset" else dataset
        groups.setdefault(key, []).append(run)
    return groups


def _outcome(run: Run) -> TableRow:
    return {"status": run.status, "reason": run.reason, "run": run.run_key}


def _retained(score: RunScore) -> str:
    """A retention with its interval, if that has a width: the unpruned run retains all of itself for sure."""
    kept = score.retained
    if not kept:
        return ""
    value = f"{kept['value']:.1%}"
    return value if kept["low"] == kept["high"] else f"{value} [{kept['low']:.1%}, {kept['high']:.1%}]"


def _shared(rows: Sequence[TableRow]) -> TableRow:
    """In each column the value that all rows have which have one, or theirs one after the other."""
    merged: TableRow = {}
    for name in rows[0]:
        known = [text for row in rows if (text := value_text(row[name], NUMBER_FORMATS.get(name, "")))]
        merged[name] = known[0] if len(set(known)) == 1 else " / ".join(known)
    return merged


def _reasons(rows: Iterable[TableRow]) -> list[str]:
    """Why runs have no result, and which they are."""
    groups: dict[str, list[str]] = {}
    for row in rows:
        if row["status"] != "done":
            groups.setdefault(str(row["reason"]), []).append(str(row["run"]))
    return [f"{runs[0]}{f' and {len(runs) - 1} more' * (len(runs) > 1)}: {reason}" for reason, runs in groups.items()]


def _choice_columns(runs: Sequence[Run]) -> dict[str, str]:
    """Choices that differ between runs of one method, which its name therefore does not tell apart, and their columns.

    Those that a method shares with its unpruned run count among all runs, but the options of a model or a data set only
    among runs of one name.
    """
    seen: dict[tuple[str, str, str], set[str]] = {}
    for run in runs:
        flat = flat_choices(run)
        for key, value in flat.items():
            named = "" if key.endswith(".name") else flat.get(f"{key.split('.')[0]}.name", "")
            method = "" if key.split(".")[0] in SHARED_GROUPS else run.method
            seen.setdefault((method, named, key), set()).add(value_text(_plain(value)))
    varying = list(dict.fromkeys(key for (*_, key), values in seen.items() if len(values) > 1))
    short = [_short(key) for key in varying]
    return {key: name if short.count(name) == 1 else key for key, name in zip(varying, short, strict=True)}


def _short(key: str) -> str:
    """``pruner.d_thresh`` -> ``d_thresh``, but ``budget.average`` -> ``budget``: what a reader looks for."""
    group, _, option = key.partition(".")
    return group if option in ("", "average", "strategy", "kind", "source", "name") else option


def flat_choices(run: Run) -> dict[str, Any]:
    """The choices of a run as ``group.option`` -> value, of a data set's frames as ``dataset.frames.option``.

    The position strategy is the one in use, whatever is native to the method.
    """
    flat: dict[str, Any] = {"protocol": run.protocol} if run.done else {}
    for group in CHOICE_GROUPS:
        value = run.config.get(group)
        if isinstance(value, dict):
            for key, item in value.items():
                parts = {f".{part}": one for part, one in item.items()} if isinstance(item, dict) else {"": item}
                flat |= {f"{group}.{key}{part}": one for part, one in parts.items() if key != "_target_"}
        elif value is not None:
            flat[group] = value
    return flat | ({"position.strategy": run.choices.strategy} if "position.strategy" in flat else {})


def _plain(value: Any) -> CellValue:
    """A choice as the cell of a table: numbers stay numbers."""
    return value if value is None or (isinstance(value, int | float) and not isinstance(value, bool)) else str(value)
