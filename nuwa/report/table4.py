"""The analytic columns of the Nüwa paper's Table 4: which schedule gives each printed number.

Its LLM TFLOPs and metric MFLOPs follow from token counts by the formulas of its Appendix C. For the unpruned model,
Nüwa and VisionZip the counts are those of our methods at 64 tokens. The printed numbers of FastV and SparseVLM cannot
be those of 64 tokens entering a layer on average: no such schedule costs more than 0.662 TFLOPs (`most_tflops`). These
give them, to 0.03 %:

- FastV: three full layers, then 30 tokens: 81.2 entering on average, 64.1 leaving. Thirty is also what 64 entering
  leaves after two full layers (the authors' K = 2).
- SparseVLM: its authors' 66, 30 and 17 tokens, on leaving layers 2, 6 and 15, recycled tokens not counted: 79.2
  entering on average. The metric column agrees: one attention row for each of 576, 66 and 30 tokens, no clustering.
"""

from __future__ import annotations

from dataclasses import dataclass

from nuwa.pruners.catalogue import find_method
from nuwa.pruning.budget import Budget, ModelShape, Schedule, attention_score_flops, average_leaving, llm_flops
from nuwa.report.expected import UNPRUNED, PaperTable, PrintedRow
from nuwa.report.formats import Cells

LLAVA_7B = ModelShape(
    layers=32, hidden=4096, intermediate=11008, kv_heads=32, head_dim=128, vision_hidden=1024, image_tokens=576
)
FOUND = {
    "fastv": Schedule(576, ((3, 30),)),
    "sparsevlm": Schedule(576, ((3, 66), (7, 30), (16, 17))),
}
"""Schedules that were searched for, of methods whose printed number is not that of 64 tokens."""
TOLERANCE = 0.002  # of the printed value


@dataclass(frozen=True)
class Analytic:
    """A row of Table 4: a schedule, its costs by the formulas, and the printed ones."""

    row: PrintedRow
    schedule: Schedule
    tflops: float
    mflops: float

    @property
    def comes_out(self) -> bool:
        """Whether both costs agree with the printed ones."""
        pairs = ((self.tflops, self.row.cells["llm_tflops"]), (self.mflops, self.row.cells["metric_mflops"]))
        return all(abs(ours - printed) <= TOLERANCE * printed for ours, printed in pairs)


def tflops(schedule: Schedule, shape: ModelShape = LLAVA_7B) -> float:
    """LLM TFLOPs of a schedule's visual tokens."""
    return llm_flops(schedule.per_layer(shape.layers), shape) / 1e12


def analytic_rows(table: PaperTable) -> list[Analytic]:
    """Table 4's rows, computed: of our methods' schedules at the printed budget, or of the schedules found."""
    rows = []
    for row in table.rows:
        if row.method in FOUND:
            schedule = FOUND[row.method]
            metric = rows_of_attention(schedule)
        else:
            schedule, metric = _at_budget(row)
        rows.append(Analytic(row, schedule, tflops(schedule), metric / 1e6))
    return rows


def at_64(row: PrintedRow) -> float:
    """LLM TFLOPs of our method at the printed budget."""
    return tflops(_at_budget(row)[0])


def _at_budget(row: PrintedRow) -> tuple[Schedule, float]:
    kind, options = find_method(row.pruners[0])
    budget = Budget() if row.method == UNPRUNED else Budget(row.average)
    pruner = kind(**options, budget=budget)
    return pruner.schedule(LLAVA_7B.image_tokens, LLAVA_7B.layers), pruner.metric_flops(LLAVA_7B.image_tokens, LLAVA_7B)


def rows_of_attention(schedule: Schedule) -> float:
    """FLOPs of one attention row before every stage, over the tokens that are still there."""
    before = [schedule.vision, *(count for _, count in schedule.llm)][:-1]
    return sum(attention_score_flops(1, count, LLAVA_7B.hidden) for count in before)


def fastv_schedules(printed: float) -> list[tuple[float, Schedule]]:
    """Every number of full layers and of tokens after them that gives a printed TFLOPs to 0.2 %, the closest first."""
    options = (Schedule(576, ((layer, count),)) for layer in range(LLAVA_7B.layers) for count in range(1, 576))
    near = [(abs(tflops(option) / printed - 1), option) for option in options]
    return sorted((entry for entry in near if entry[0] <= TOLERANCE), key=lambda entry: entry[0])


def most_tflops(average: float) -> float:
    """The most that a schedule of ``average`` tokens entering a layer can cost: all tokens as long as they last.

    Costs are convex in the count, so that nothing costs more than layers that are full or empty.
    """
    full, rest = divmod(average * LLAVA_7B.layers, LLAVA_7B.image_tokens)
    counts = [LLAVA_7B.image_tokens] * int(full) + [rest]
    return llm_flops(counts, LLAVA_7B) / 1e12


def text_rows(rows: list[Analytic]) -> list[Cells]:
    """For printing: schedule, averages, both costs beside the printed ones, and the cost of 64 tokens."""
    return [
        {
            "method": analytic.row.method,
            "tokens from layer on": _stages(analytic.schedule),
            "average entering": f"{analytic.schedule.average(LLAVA_7B.layers):.1f}",
            "leaving": f"{average_leaving(analytic.schedule.per_layer(LLAVA_7B.layers)):.1f}",
            "TFLOPs computed / paper": _pair(analytic.tflops, analytic.row.cells["llm_tflops"]),
            "metric MFLOPs computed / paper": _pair(analytic.mflops, analytic.row.cells["metric_mflops"]),
            "TFLOPs of ours at the budget": f"{at_64(analytic.row):.4f}",
        }
        for analytic in rows
    ]


def _stages(schedule: Schedule) -> str:
    return ", ".join(f"{count} from {layer}" for layer, count in ((0, schedule.vision), *schedule.llm))


def _pair(ours: float, printed: float) -> str:
    share = f" ({ours / printed - 1:+.3%})" if printed else ""
    return f"{ours:.4f} / {printed:.4f}{share}"
