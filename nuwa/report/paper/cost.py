"""Runs of any model beside a printed table of costs: FLOPs left, prefill sped up. Shown, never judged.

Models and machines differ, but shares can be compared: what is left of the unpruned model's FLOPs, and how many times
faster the prefill is. Both models are timed in turn in one process (``probe=speed``, batch 1).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from nuwa.evaluation.runs import Run
from nuwa.report.paper.matching import MISSING, NO_METHOD, matches, with_image_tokens
from nuwa.report.paper.printed import PaperTable, PrintedRow
from nuwa.report.paper.side_by_side import label
from nuwa.report.tables.formats import TableRow

Wholes = dict[tuple[str, str, str], float]
"""FLOPs of unpruned runs, by `_same_images`."""
FLOPS, PREFILL = "llm_tflops", "prefill_ms_a100"
COST_LEGEND = (
    "percent of the unpruned model's LLM TFLOPs, ours / paper; prefill speed-up, ours (quartiles) / paper; promised: "
    "the ratio of FLOPs, text included; reached: the share of it that was measured"
)


def cost_rows(table: PaperTable, runs: Iterable[Run]) -> list[TableRow]:
    """Every printed row for each model that has runs of it; none for a table without FLOPs."""
    if FLOPS not in table.columns:
        return []
    runs = with_image_tokens(runs)
    unpruned = [run for run in runs if run.method == "none"]
    wholes = {_same_images(run): run.llm_tflops for run in unpruned if run.llm_tflops is not None}
    return [_row(table, model, wholes, *match) for model, own in matches(table, runs).items() for match in own]


def _same_images(run: Run) -> tuple[str, str, str]:
    """What a run shares with its unpruned run; images of other sizes have other costs."""
    return run.choices.model, run.choices.dataset, run.choices.rest


def _row(table: PaperTable, model: str, wholes: Wholes, row: PrintedRow, pruner: str, run: Run | None) -> TableRow:
    left = (MISSING if pruner else NO_METHOD) if run is None else _left(run, wholes)
    probe = {} if run is None else run.probe
    unpruned = table.unpruned[row.model].cells
    return {
        "model": model,
        "method": label(row, pruner),
        "tokens": row.tokens,
        "TFLOPs left, %": f"{left} / {100 * row.cells[FLOPS] / unpruned[FLOPS]:.2f}",
        "prefill speed-up": f"{_speed_up(probe)} / {unpruned[PREFILL] / row.cells[PREFILL]:.2f}",
        "promised": f"{probe['theoretical_prefill_speedup']:.2f}" if "speedup" in probe else "",
        "reached": f"{probe['reached']:.0%}" if "speedup" in probe else "",
        "device": "" if run is None else run.environment.get("device", ""),
    }


def _left(run: Run, wholes: Wholes) -> str:
    """FLOPs in percent of the unpruned run's; the status of a run where one of them is not known."""
    whole = wholes.get(_same_images(run))
    return f"{100 * run.llm_tflops / whole:.2f}" if whole and run.llm_tflops is not None else run.status


def _speed_up(probe: Mapping[str, Any]) -> str:
    if "speedup" not in probe:
        return "1" if probe else "not measured"
    found = probe["speedup"]["prefill_ms"]
    return f"{found['median']:.2f} ({found['q1']:.2f} to {found['q3']:.2f})"
