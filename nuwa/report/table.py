"""One table from many results: what each run answered, how sure that is, what it cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from nuwa.evaluation.journal import JOURNAL, JournalError, read_rows
from nuwa.evaluation.result import read_result
from nuwa.evaluation.runs import Result, method_of, protocol_of
from nuwa.report.formats import Cells, csv_text, latex_text, markdown_text, print_text

SHOWN_CHOICES = ("pruner", "budget", "position", "blocking", "model", "dataset", "generation", "seed", "limit")

SHARED = ("model", "dataset", "generation", "seed", "limit", "protocol")
"""Groups in which a run and its unpruned run agree."""


class TableError(ValueError):
    """A table that was asked for cannot be made of these runs."""


def collect(folders: Iterable[Path]) -> list[Result]:
    """The result of every run; a run that was cut short says how many samples it has.

    A run key stands for the choices that make a result, so that a run that lies in several folders (of several
    experiments, or copied from several machines) counts once: where it is finished, if it is anywhere.
    """
    found: dict[str, Result] = {}
    for folder in dict.fromkeys(Path(folder) for folder in folders):
        if found.get(folder.name, {}).get("status") != "done":
            found[folder.name] = {"run_key": folder.name, **(read_result(folder) or _unfinished(folder))}
    return list(found.values())


def _unfinished(folder: Path) -> Result:
    try:
        reason = f"{len(read_rows(folder / JOURNAL))} samples computed, no result yet"
    except JournalError as error:
        reason = str(error)
    return {"status": "unfinished", "reason": reason}


def find_runs(*roots: Path) -> list[Path]:
    """Every run folder at or below ``roots``."""
    names = ("result.json", JOURNAL)
    return sorted({file.parent for root in roots for name in names for file in Path(root).rglob(name)})


def rows_of(results: Sequence[Result], full: bool = False) -> list[Cells]:
    """Table cells, one row per run: the unpruned run first, then by method and choices. All have the same columns.

    ``full`` gives 95 % intervals in place of standard errors, and more of the costs in place of times.
    """
    varying = _varying(results)
    results = sorted(results, key=lambda result: _rank(result, varying))
    names = headline(results)
    return [_cells(result, varying, names, full) for result in results]


def beside(rows: Sequence[Cells], choice: str) -> list[Cells]:
    """One row for runs that differ in ``choice`` alone, each metric once for each of its values.

    Costs in which these runs differ stand one after the other.

    Raises:
        TableError: the runs do not differ in ``choice``.
    """
    columns = list(rows[0])
    own = columns[: columns.index("tokens")]
    if choice not in own[1:]:
        raise TableError(f"--beside {choice}: runs differ in {', '.join(own[1:]) or 'their methods'} only")
    own.remove(choice)
    metrics = [name for name in columns[columns.index("tokens") : columns.index("LLM TFLOPs")] if "/" in name]
    values = list(dict.fromkeys(row[choice] for row in rows))
    groups: dict[tuple[str, ...], dict[str, Cells]] = {}
    for row in rows:
        key = tuple(row[name] for name in own)
        while row[choice] in groups.setdefault(key, {}):  # cut short, so that nothing is known of their choices
            key += ("again",)
        groups[key][row[choice]] = row
    return [_merged(group, own, metrics, values) for group in groups.values()]


def _merged(group: dict[str, Cells], own: Sequence[str], metrics: Sequence[str], values: Sequence[str]) -> Cells:
    first = min(group.values(), key=lambda row: row["status"] == "done")  # what went wrong is not to be hidden
    names = list(first)
    cells = {name: first[name] for name in own}
    cells |= {name: _shared(group.values(), name) for name in ("tokens", "leaving") if name in first}
    cells |= {
        f"{name}, {value}" if value else name: group.get(value, {}).get(name, "")
        for name in metrics
        for value in values
    }
    cells |= {name: _shared(group.values(), name) for name in names[names.index("LLM TFLOPs") : names.index("status")]}
    return cells | {name: first[name] for name in names[names.index("status") :]}


def _shared(rows: Iterable[Cells], name: str) -> str:
    """The cell that all rows have which have one, or theirs one after the other."""
    known = [row[name] for row in rows if row[name]]
    return known[0] if len(set(known)) == 1 else " / ".join(known)


def _rank(result: Result, varying: Sequence[str]) -> tuple:
    """Sorts runs: numbers by size, texts by letter, missing values first."""
    flat = _flat(result)
    values = [flat.get(key) for key in varying]
    ranks = [
        (0, value, "") if isinstance(value, int | float) else (value is not None, 0, str(value)) for value in values
    ]
    return method_of(result) != "none", method_of(result), ranks


def _cells(result: Result, varying: Sequence[str], names: Sequence[str], full: bool) -> Cells:
    flat = _flat(result)
    cells = {"method": method_of(result)} | {name: _plain(flat.get(key)) for key, name in _columns(varying).items()}
    cells["tokens"] = _number(result.get("tokens_entering"), ".1f")
    if full:
        cells["leaving"] = _number(result.get("tokens_leaving"), ".1f")
    for name in names:
        cells[name] = _metric(result, name, full)
    for name in names:
        kept = result.get("retention", {}).get(name)
        cells[f"{name.split('/')[0]} retained"] = _share(kept) if kept else ""
    cells["LLM TFLOPs"] = _number(result.get("llm_tflops"), ".4g")
    if full:
        cells["metric MFLOPs"] = _number(result.get("metric_mflops"), ".3g")
    else:
        cells["s/sample"] = _number(result.get("timings", {}).get("seconds_per_sample"), ".3f")
    cells["n"] = str(result.get("n", "")) + (f" ({result['n_failed']} failed)" if result.get("n_failed") else "")
    cells |= {
        name: str(result.get(key, "")) for name, key in (("status", "status"), ("reason", "reason"), ("run", "run_key"))
    }
    return cells


def _metric(result: Result, name: str, interval: bool) -> str:
    """A metric with its standard error, or its 95 % interval if it has one."""
    value, between = _number(result.get("metrics", {}).get(name), ".3f"), result.get("intervals", {}).get(name)
    if value and interval and between:
        return f"{value} [{between[0]:.3f}, {between[1]:.3f}]"
    errors = result.get("standard_errors", {})
    return f"{value} ±{errors[name]:.3f}" if value and name in errors else value


def headline(results: Sequence[Result]) -> list[str]:
    """The first metric of every task."""
    first: dict[str, str] = {}
    for result in results:
        for name in result.get("metrics", {}):
            first.setdefault(name.split("/")[0], name)
    return list(first.values())


def _varying(results: Sequence[Result]) -> list[str]:
    """Choices that differ between runs of one method, which the method's name therefore does not tell apart.

    Those that a method shares with its unpruned run count among all runs, but the options of a model or a data set only
    among runs of one name.
    """
    seen: dict[tuple[str, str, str], set[str]] = {}
    for result in results:
        flat = _flat(result)
        for key, value in flat.items():
            named = "" if key.endswith(".name") else flat.get(f"{key.split('.')[0]}.name", "")
            method = "" if key.split(".")[0] in SHARED else method_of(result)
            seen.setdefault((method, named, key), set()).add(_plain(value))
    return list(dict.fromkeys(key for (*_, key), values in seen.items() if len(values) > 1))


def _columns(varying: Sequence[str]) -> dict[str, str]:
    """Names of columns for choices, short where that is one choice's alone."""
    short = [_short(key) for key in varying]
    return {key: name if short.count(name) == 1 else key for key, name in zip(varying, short, strict=True)}


def _short(key: str) -> str:
    """``pruner.d_thresh`` -> ``d_thresh``, but ``budget.average`` -> ``budget``: what a reader looks for."""
    group, _, option = key.rpartition(".")
    return group if option in ("average", "strategy", "source", "name") else option


def _flat(result: Result) -> dict[str, Any]:
    """The choices of a run as ``group.option`` -> value."""
    flat = {"protocol": protocol_of(result)} if result.get("status") == "done" else {}
    for group in SHOWN_CHOICES:
        value = result.get("config", {}).get(group)
        if isinstance(value, dict):
            flat |= {f"{group}.{key}": item for key, item in value.items() if key != "_target_"}
        elif value is not None:
            flat[group] = value
    return flat


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _share(kept: dict[str, float]) -> str:
    """A retention with its interval, if that has a width: the unpruned run retains all of itself for sure."""
    value = f"{kept['value']:.1%}"
    return value if kept["low"] == kept["high"] else f"{value} [{kept['low']:.1%}, {kept['high']:.1%}]"


def _plain(value: Any) -> str:
    return "" if value is None else format(value, "g") if isinstance(value, float) else str(value)


def shown_columns(rows: Sequence[Cells]) -> list[str]:
    """What a reader wants to see: no empty columns, no run keys, and a status only where not all are done."""
    hidden = {"run", "reason"} if any(row["status"] != "done" for row in rows) else {"run", "reason", "status"}
    return [name for name in rows[0] if name not in hidden and any(row[name] for row in rows)]


def print_rows(rows: Sequence[Cells], title: str) -> None:
    """For a terminal: without empty columns, and below the table why there is no result where there is none."""
    print_text(rows, shown_columns(rows), title, reasons(rows))


def reasons(rows: Sequence[Cells]) -> list[str]:
    """Why runs have no result, and which they are."""
    groups: dict[str, list[str]] = {}
    for row in rows:
        if row["status"] != "done":
            groups.setdefault(row["reason"], []).append(row["run"])
    return [f"{runs[0]}{f' and {len(runs) - 1} more' * (len(runs) > 1)}: {reason}" for reason, runs in groups.items()]


def markdown_table(rows: Sequence[Cells]) -> str:
    """GitHub's Markdown, the reasons of runs without a result below it."""
    return markdown_text(rows, shown_columns(rows), reasons(rows))


def latex_table(rows: Sequence[Cells]) -> str:
    """LaTeX, the reasons of runs without a result as comments below it."""
    return latex_text(rows, shown_columns(rows), reasons(rows))


def csv_table(rows: Sequence[Cells]) -> str:
    """Comma-separated, all columns."""
    return csv_text(rows)
