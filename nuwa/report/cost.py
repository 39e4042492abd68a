"""Runs of any model beside a printed table of costs: FLOPs left, prefill sped up. Shown, never judged.

Models and machines differ, shares can be compared: what is left of the unpruned model's FLOPs, and how many times
faster the prefill is, measured in turn with the unpruned model in one process (``probe=speed``, batch 1).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from nuwa.evaluation.runs import Choices, Result, probe_of
from nuwa.report.expected import PaperTable, PrintedRow
from nuwa.report.formats import Cells
from nuwa.report.paper import ABSENT, MISSING, Run, chosen, matches
from nuwa.report.side_by_side import label

Wholes = dict[Hashable, float]
FLOPS, PREFILL = "llm_tflops", "prefill_ms_a100"
LEGEND = (
    "percent of the unpruned model's LLM TFLOPs, ours / paper; prefill speed-up, ours (quartiles) / paper; promised: "
    "the ratio of FLOPs, text included; reached: the share of it that was measured"
)


def cost_rows(table: PaperTable, results: Iterable[Result]) -> list[Cells]:
    """Every printed row for each model that has runs of it; none for a table without FLOPs."""
    if FLOPS not in table.columns:
        return []
    runs = chosen(results)
    unpruned = [run for run in runs if run[0].method == "none" and FLOPS in run[1]]
    whole = {key: result[FLOPS] for choices, result in unpruned for key in (result["run_key"], _alike(choices))}
    found = matches(table, runs)
    return [_row(table, model, whole, *match) for model, own in found.items() for match in own]


def _alike(choices: Choices) -> tuple[str, str, str]:
    """What a run shares with its unpruned run, where it names none: images of other sizes have other costs."""
    return choices.model, choices.dataset, choices.rest


def _whole(wholes: Wholes, choices: Choices, result: Result) -> float | None:
    """FLOPs without pruning: of the unpruned run that a run names, otherwise of one with the same options."""
    return wholes.get(result.get("baseline"), wholes.get(_alike(choices)))


def _row(table: PaperTable, model: str, wholes: Wholes, row: PrintedRow, pruner: str, run: Run | None) -> Cells:
    result, whole = ({}, None) if run is None else (run[1], _whole(wholes, *run))
    state = result.get("status", MISSING if pruner else ABSENT)
    unpruned = table.unpruned[row.model].cells
    left = f"{100 * result[FLOPS] / whole:.2f}" if whole and FLOPS in result else state
    faster = f"{unpruned[PREFILL] / row.cells[PREFILL]:.2f}"
    probe = probe_of(result)
    return {
        "model": model,
        "method": label(row, pruner),
        "tokens": row.tokens,
        "TFLOPs left, %": f"{left} / {100 * row.cells[FLOPS] / unpruned[FLOPS]:.2f}",
        "prefill speed-up": f"{_ratio(probe)} / {faster}",
        "promised": f"{probe['theoretical_prefill_speedup']:.2f}" if "speedup" in probe else "",
        "reached": f"{probe['reached']:.0%}" if "speedup" in probe else "",
        "device": result.get("environment", {}).get("device", ""),
    }


def _ratio(probe: dict) -> str:
    if "speedup" not in probe:
        return "1" if probe else "not measured"
    found = probe["speedup"]["prefill_ms"]
    return f"{found['median']:.2f} ({found['q1']:.2f} to {found['q3']:.2f})"
