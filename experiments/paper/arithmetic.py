"""What the printed tables say about themselves, without any run.

    python experiments/paper/arithmetic.py                  # every table whose numbers follow from others
    python experiments/paper/arithmetic.py table5 table6    # does the printed retention follow from the printed cells?
    python experiments/paper/arithmetic.py table4           # which schedules give the printed costs?

Exit status 1 if a number does not follow and experiments/expected says nothing of why.

Table 4's LLM TFLOPs and metric MFLOPs follow from token counts by the formulas of the Nüwa paper's Appendix C. For the
unpruned model, Nüwa and VisionZip the counts are those of our methods at 64 tokens. The printed numbers of FastV and
SparseVLM cannot be those of 64 tokens entering a layer on average: no such schedule costs more than 0.662 TFLOPs
(`most_tflops`). These give them, to 0.03 %:

- FastV: three full layers, then 30 tokens: 81.2 entering on average, 64.1 leaving. Thirty is also what 64 entering
  leaves after two full layers (the authors' K = 2).
- SparseVLM: its authors' 66, 30 and 17 tokens, on leaving layers 2, 6 and 15, recycled tokens not counted: 79.2
  entering on average. The metric column agrees: one attention row for each of 576, 66 and 30 tokens, no clustering.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from nuwa.pruners.catalogue import find_method
from nuwa.pruning.budget import Budget, average_leaving
from nuwa.pruning.flops import ModelShape, attention_score_flops, llm_flops
from nuwa.pruning.schedules import Schedule
from nuwa.report.paper.printed import (
    SUMMARIES,
    UNPRUNED,
    PaperTable,
    PrintedRow,
    load_table,
    mean_share,
    table_names,
)
from nuwa.report.paper.sections import heading
from nuwa.report.tables.formats import TableRow
from nuwa.report.tables.section import FORMS, Section

IMAGE_TOKENS = 576
LLAVA_7B = ModelShape(32, 4096, 11008, kv_heads=32, head_dim=128, vision_hidden=1024, image_tokens=IMAGE_TOKENS)
FOUND = {
    "fastv": Schedule(IMAGE_TOKENS, ((3, 30),)),
    "sparsevlm": Schedule(IMAGE_TOKENS, ((3, 66), (7, 30), (16, 17))),
}
"""Schedules that were searched for, of methods whose printed number is not that of 64 tokens."""
COST_TOLERANCE = 0.002  # of the printed value
RETENTION_TOLERANCE = 0.1  # points; the cells are printed to 0.1 or 0.01


@dataclass(frozen=True)
class RetentionCheck:
    """A row's printed retention, the one that its printed cells give, and why they differ, if that is known."""

    row: PrintedRow
    printed: float
    computed: float
    note: str

    @property
    def comes_out(self) -> bool:
        """Whether both agree to 0.1."""
        return abs(self.computed - self.printed) <= RETENTION_TOLERANCE + 1e-9


def retention_checks(table: PaperTable) -> list[RetentionCheck]:
    """Every printed retention of a table beside the one from its cells; none where the table prints none."""
    if not table.retention:
        return []
    benchmarks = [name for name in table.columns if name not in SUMMARIES]
    columns = benchmarks if table.retention == "ratios" else ["score_avg"]
    checks = []
    for row in table.rows:
        whole = table.unpruned[row.model]
        computed = mean_share(row, whole, columns)
        if row is not whole and computed is not None:
            note = table.note(row, "retention_avg")
            checks.append(RetentionCheck(row, row.cells["retention_avg"], computed, note))
    return checks


def retention_section(table: PaperTable) -> Section:
    """The retention column of a table, checked."""
    checks = retention_checks(table)
    rows: list[TableRow] = [
        {
            "model": check.row.model,
            "method": check.row.method,
            "tokens": check.row.tokens,
            "printed": check.printed,
            "from the cells": f"{check.computed:.2f}",
            "difference": f"{check.computed - check.printed:+.2f}",
            "comes out": "yes" if check.comes_out else "NO",
        }
        for check in checks
    ]
    off = [check for check in checks if not check.comes_out]
    remarks = [f"{len(checks) - len(off)} of {len(checks)} printed retentions follow from the printed cells to 0.1"]
    remarks += [f"{c.row.method} {c.row.tokens}: {c.note or 'no explanation known'}" for c in off]
    columns = [name for name in rows[0] if name != "model" or len(table.models) > 1]
    fails = any(not check.note for check in off)
    return Section(f"{heading(table)}: its retention column", rows, columns, remarks, fails=fails)


@dataclass(frozen=True)
class CostCheck:
    """A row of Table 4: a schedule, its costs by the formulas, and the printed ones."""

    row: PrintedRow
    schedule: Schedule
    tflops: float
    mflops: float

    @property
    def comes_out(self) -> bool:
        """Whether both costs agree with the printed ones."""
        pairs = ((self.tflops, self.row.cells["llm_tflops"]), (self.mflops, self.row.cells["metric_mflops"]))
        return all(abs(ours - printed) <= COST_TOLERANCE * printed for ours, printed in pairs)


def tflops(schedule: Schedule) -> float:
    """LLM TFLOPs of a schedule's visual tokens."""
    return llm_flops(schedule.per_layer(LLAVA_7B.layers), LLAVA_7B) / 1e12


def cost_checks(table: PaperTable) -> list[CostCheck]:
    """Table 4's rows, computed: of our methods' schedules at the printed budget, or of the schedules found."""
    checks = []
    for row in table.rows:
        if row.method in FOUND:
            schedule = FOUND[row.method]
            metric = attention_rows_flops(schedule)
        else:
            schedule, metric = at_budget(row)
        checks.append(CostCheck(row, schedule, tflops(schedule), metric / 1e6))
    return checks


def at_budget(row: PrintedRow) -> tuple[Schedule, float]:
    """Our method's schedule at the printed budget, and the FLOPs of its metric."""
    kind, options = find_method(row.pruners[0])
    pruner = kind(**options, budget=Budget() if row.method == UNPRUNED else Budget(row.average))
    return pruner.schedule(IMAGE_TOKENS, LLAVA_7B.layers), pruner.metric_flops(IMAGE_TOKENS, LLAVA_7B)


def attention_rows_flops(schedule: Schedule) -> float:
    """FLOPs of one attention row before every stage, over the tokens that are still there."""
    before = [schedule.vision, *(count for _, count in schedule.llm)][:-1]
    return sum(attention_score_flops(1, count, LLAVA_7B.hidden) for count in before)


def most_tflops(average: float) -> float:
    """The most that a schedule of ``average`` tokens entering a layer can cost: all tokens as long as they last.

    Costs are convex in the count, so that nothing costs more than layers that are full or empty.
    """
    full, rest = divmod(average * LLAVA_7B.layers, IMAGE_TOKENS)
    return llm_flops([*[IMAGE_TOKENS] * int(full), rest], LLAVA_7B) / 1e12


def cost_section(table: PaperTable) -> Section:
    """Table 4: schedules, averages, both costs beside the printed ones, and the cost of 64 tokens."""
    checks = cost_checks(table)
    rows: list[TableRow] = [
        {
            "method": check.row.method,
            "tokens from layer on": _stages(check.schedule),
            "average entering": f"{check.schedule.average(LLAVA_7B.layers):.1f}",
            "leaving": f"{average_leaving(check.schedule.per_layer(LLAVA_7B.layers)):.1f}",
            "TFLOPs computed / paper": _pair(check.tflops, check.row.cells["llm_tflops"]),
            "metric MFLOPs computed / paper": _pair(check.mflops, check.row.cells["metric_mflops"]),
            "TFLOPs of ours at the budget": f"{tflops(at_budget(check.row)[0]):.4f}",
        }
        for check in checks
    ]
    remarks = [
        f"no schedule of 64 tokens entering a layer on average costs more than {most_tflops(64):.4f} TFLOPs",
        *dict.fromkeys(f"{note['method']}: {note['note']}" for note in table.notes),
    ]
    fails = not all(check.comes_out for check in checks)
    return Section(f"{heading(table)}: what gives these costs", rows, list(rows[0]), remarks, fails=fails)


def _stages(schedule: Schedule) -> str:
    return ", ".join(f"{count} from {layer}" for layer, count in ((0, schedule.vision), *schedule.llm))


def _pair(ours: float, printed: float) -> str:
    return f"{ours:.4f} / {printed:.4f}" + (f" ({ours / printed - 1:+.3%})" if printed else "")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the checks; 1 if one fails or there is no such table."""
    words = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    words.add_argument("tables", nargs="*", help="without: every table that has something to check")
    words.add_argument("--format", choices=FORMS, default="table")
    options = words.parse_args(arguments)
    try:
        tables = [load_table(name) for name in options.tables or table_names()]
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    sections = [cost_section(table) if table.name == "table4" else retention_section(table)
                for table in tables if table.name == "table4" or retention_checks(table)]  # fmt: skip
    for section in sections:
        section.show(options.format)
    return int(any(section.fails for section in sections))


if __name__ == "__main__":
    sys.exit(main())
