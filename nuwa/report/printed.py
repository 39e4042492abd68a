"""The printed tables' own arithmetic: does the retention column follow from the printed cells?"""

from __future__ import annotations

from dataclasses import dataclass

from nuwa.report.expected import SUMMARIES, PaperTable, PrintedRow, mean_share

TOLERANCE = 0.1  # points of retention; the cells are printed to 0.1 or 0.01


@dataclass(frozen=True)
class RetentionCheck:
    """A row's printed retention, and the one that its printed cells give."""

    row: PrintedRow
    printed: float
    computed: float
    note: str

    @property
    def comes_out(self) -> bool:
        """Whether both agree to 0.1."""
        return abs(self.computed - self.printed) <= TOLERANCE + 1e-9


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
