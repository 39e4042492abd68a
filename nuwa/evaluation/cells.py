"""Results as cells: one row per run and metric, in types that a dashboard can sort, filter and group by."""

from __future__ import annotations

from typing import Any

from nuwa.evaluation.runs import Result, choices_of

CELL_COLUMNS = (
    "model", "dataset", "method", "options", "position", "budget", "seed", "metric", "value", "error",
    "retained", "retained_low", "retained_high", "tokens", "llm_tflops", "n", "status", "run",
)  # fmt: skip
"""``value`` as scored, ``error`` its standard error, ``retained`` a share, its 95 % interval, ``tokens`` measured."""


def cells_of(result: Result) -> list[dict[str, Any]]:
    """The cells of a run; a run without a result has one, which says what became of it."""
    choices, metrics = choices_of(result), result.get("metrics") or {"": None}
    about = {
        "model": choices.model,
        "dataset": choices.dataset,
        "method": choices.method,
        "options": ", ".join(f"{name}={value}" for name, value in choices.changed.items()),
        "position": choices.position,
        "budget": choices.budget,
        "seed": result.get("config", {}).get("seed"),
        "tokens": result.get("tokens_entering"),
        "llm_tflops": result.get("llm_tflops"),
        "n": result.get("n"),
        "status": result.get("status", "unfinished"),
        "run": result["run_key"],
    }
    return [_ordered(about | _scored(result, metric, value)) for metric, value in metrics.items()]


def _scored(result: Result, metric: str, value: float | None) -> dict[str, Any]:
    kept = result.get("retention", {}).get(metric, {})
    return {
        "metric": metric,
        "value": value,
        "error": result.get("standard_errors", {}).get(metric),
        "retained": kept.get("value"),
        "retained_low": kept.get("low"),
        "retained_high": kept.get("high"),
    }


def _ordered(cell: dict[str, Any]) -> dict[str, Any]:
    return {name: cell[name] for name in CELL_COLUMNS}
