"""What the speed probe measured: pruned beside unpruned, part by part, and how much of the promise is reached."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nuwa.evaluation.runs import Run
from nuwa.report.tables.formats import TableRow
from nuwa.report.tables.runs import RunsTable
from nuwa.report.tables.section import Section, filled_columns

_PLACE = ("device", "threads", "dtype", "attention")
"""What times must have in common to be compared."""
_FORMATS = {"TTFT, ms": ".1f", "prefill, ms": ".1f", "promised": ".2f", "compression, ms": ".1f", "decode, ms": ".2f"}
_FORMATS |= {"KV, MB": ".2f", "peak memory, MB": ".0f", "tokens": ".1f"}


def device_of(run: Run) -> str:
    """Where a run was timed, and how: times of several places are not compared."""
    device, threads, dtype, attention = (run.environment.get(key) for key in _PLACE)
    return f"{device}, {threads} thread(s), {dtype}, {attention}"


def speed_sections(runs: Sequence[Run]) -> list[Section]:
    """One table for each place at which runs were timed beside the unpruned model; none without a probe."""
    timed: dict[str, list[Run]] = {}
    for run in runs:
        if any("speedup" in entry for entry in run.speed or ()):
            timed.setdefault(device_of(run), []).append(run)
    return [_section(place, own) for place, own in timed.items()]


def _section(place: str, runs: Sequence[Run]) -> Section:
    table = RunsTable(runs)
    entries = [(run, entry) for run in table.runs for entry in run.speed or () if "speedup" in entry]
    rows = [table.choices(run) | {"tokens": run.tokens_entering} | _times(entry) for run, entry in entries]
    rounds = _values(f"{entry['warmup']} warm-up and {entry['repeats']} timed" for _, entry in entries)
    remarks = [
        f"{place}; {rounds} rounds, pruned and unpruned in turn; medians, and speed-ups with their quartiles",
        "promised: FLOPs of all tokens that the layers cached, unpruned / pruned; reached: the prefill's share of it",
    ]
    hidden = ("batch",) if {entry["batch"] for _, entry in entries} == {1} else ()
    return Section("measured speed", rows, filled_columns(rows, hidden), remarks, number_formats=_FORMATS)


def _times(entry: Mapping[str, Any]) -> TableRow:
    """The cells of what was measured at one batch size."""
    pruned = {name: spent["median"] for name, spent in entry["variants"]["pruned"].items()}
    return {
        "batch": entry["batch"],
        "TTFT, ms": pruned["ttft_ms"],
        "TTFT, speed-up": _ratio(entry["speedup"]["ttft_ms"]),
        "prefill, ms": pruned["prefill_ms"],
        "prefill, speed-up": _ratio(entry["speedup"]["prefill_ms"]),
        "promised": entry["theoretical_prefill_speedup"],
        "reached": f"{entry['reached']:.0%}",
        "compression, ms": entry["compression_ms"]["median"],
        "decode, ms": pruned["decode_ms_per_token"],
        "decode, speed-up": _ratio(entry["speedup"]["decode_ms_per_token"]),
        "KV, MB": pruned["kv_mb"],
        "peak memory, MB": pruned.get("peak_memory_mb"),
    }


def _ratio(quartiles: Mapping[str, float]) -> str:
    return f"{quartiles['median']:.2f} [{quartiles['q1']:.2f}, {quartiles['q3']:.2f}]"


def _values(texts: Iterable[str]) -> str:
    return " / ".join(dict.fromkeys(texts))
