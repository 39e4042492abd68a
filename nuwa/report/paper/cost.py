"""Runs of any model beside a printed table of costs: FLOPs left, prefill sped up. Shown, never judged.

Models and machines differ, but shares can be compared: what is left of the unpruned model's FLOPs, and how many times
faster the prefill is. Both models are timed in turn in one process (``probe=speed``, batch 1).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from nuwa.evaluation.runs import Run
from nuwa.report.paper.matching import MISSING, NO_METHOD, matches, with_image_tokens
from nuwa.report.paper.printed import PaperTable, PrintedRow
from nuwa.report.paper.side_by_side import label
from nuwa.report.tables.formats import TableRow

Wholes = dict[tuple[str, str, str], float]
"""FLOPs of unpruned runs, by `_same_images`."""
COST_LEGEND = (
    "percent of the unpruned model's LLM TFLOPs, ours / paper; speed-up of prefill or first token, ours (quartiles) / "
    "paper; promised: the ratio of the prefill's FLOPs, text included; reached: the share of it that was measured"
)


@dataclass(frozen=True)
class _Costs:
    """What a table prints: ``flops``, counted as our ``counted``, and a time, sped up as our ``part`` is."""

    flops: str
    counted: str
    time: str
    part: str
    title: str


_TABLES = (
    _Costs("llm_tflops", "llm_tflops", "prefill_ms_a100", "prefill_ms", "prefill speed-up"),
    _Costs("tflops", "flashvid_tflops", "ttft_ms", "ttft_ms", "first token speed-up"),
)


def cost_rows(table: PaperTable, runs: Iterable[Run]) -> list[TableRow]:
    """Every printed row for each model that has pruned runs of it; none for a table without FLOPs."""
    costs = next((costs for costs in _TABLES if costs.flops in table.columns), None)
    if costs is None:
        return []
    runs = with_image_tokens(runs)
    flops = {_same_images(run): getattr(run, costs.counted) for run in runs if run.method == "none"}
    wholes = {images: count for images, count in flops.items() if count is not None}
    found = {
        model: own
        for model, own in matches(table, runs).items()
        if any(run is not None and run.method != "none" for *_, run in own)
    }
    return [_row(table, costs, model, wholes, *match) for model, own in found.items() for match in own]


def _same_images(run: Run) -> tuple[str, str, str]:
    """What a run shares with its unpruned run; images of other sizes have other costs."""
    return run.choices.model, run.choices.dataset, run.choices.rest


def _row(
    table: PaperTable, costs: _Costs, model: str, wholes: Wholes, row: PrintedRow, pruner: str, run: Run | None
) -> TableRow:
    left = (MISSING if pruner else NO_METHOD) if run is None else _left(run, costs, wholes)
    probe = {} if run is None else run.probe
    unpruned = table.unpruned[row.model].cells
    return {
        "model": model,
        "method": label(row, pruner),
        "tokens": row.tokens,
        "TFLOPs left, %": f"{left} / {100 * row.cells[costs.flops] / unpruned[costs.flops]:.2f}",
        costs.title: f"{_speed_up(probe, costs.part)} / {unpruned[costs.time] / row.cells[costs.time]:.2f}",
        "promised": f"{probe['theoretical_prefill_speedup']:.2f}" if "speedup" in probe else "",
        "reached": f"{probe['reached']:.0%}" if "speedup" in probe else "",
        "device": "" if run is None else run.environment.get("device", ""),
    }


def _left(run: Run, costs: _Costs, wholes: Wholes) -> str:
    """FLOPs in percent of the unpruned run's; the status of a run where one of them is not known."""
    whole, own = wholes.get(_same_images(run)), getattr(run, costs.counted)
    return f"{100 * own / whole:.2f}" if whole and own is not None else run.status


def _speed_up(probe: Mapping[str, Any], part: str) -> str:
    if "speedup" not in probe:
        return "1" if probe else "not measured"
    found = probe["speedup"][part]
    return f"{found['median']:.2f} ({found['q1']:.2f} to {found['q3']:.2f})"
