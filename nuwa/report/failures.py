"""Which samples one run gets right and another wrong, by task, part, size and place of the object, and where boxes go.

    nuwa failures outputs/main/<key> outputs/main/<key>

Writes cases.csv (every sample that both answered), offsets.csv and offsets.png below the second run, or ``--out``, and
prints tables. A sample is right when its first score is at least one half: exact match, or IoU of at least 0.5.
"""

from __future__ import annotations

import math
import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from nuwa.benchmarks.scoring import Box, parse_box
from nuwa.command import argument, command
from nuwa.evaluation.answers import read_answers
from nuwa.evaluation.journal import Row
from nuwa.evaluation.pairs import same_samples
from nuwa.evaluation.runs import finished_run
from nuwa.evaluation.scores import parts_of
from nuwa.report.figures.offsets import Moves, plot_offsets
from nuwa.report.labels import labels_of
from nuwa.report.tables.formats import csv_text, value_text

OUTCOMES = ("both", "only first", "only second", "neither")
BOX_THIRDS = ("small", "medium", "large")
BOX_PLACES = tuple(f"{row} {column}" for row in ("top", "middle", "bottom") for column in ("left", "centre", "right"))


@dataclass(frozen=True)
class Case:
    """A sample that both runs answered.

    ``part``: which part of its task the headline counts it in, too (``small`` of ``read/exact_match/small``), if any;
    ``size``: which third of the compared boxes by area; ``place``: which ninth of the picture its centre lies in;
    ``dx``, ``dy``: the predicted centre minus the true one, in fractions of the picture, of each run. Empty or nan
    where there is no box.
    """

    id: str
    task: str
    outcome: str
    part: str = ""
    size: str = ""
    place: str = ""
    first_dx: float = math.nan
    first_dy: float = math.nan
    second_dx: float = math.nan
    second_dy: float = math.nan


def is_right(row: Row) -> bool:
    """Whether the first score, the task's headline, is at least one half."""
    return next(iter(row["scores"].values()), 0.0) >= 0.5


def true_box(row: Row) -> Box | None:
    """The target, if it is a box: four numbers."""
    target = row["target"]
    if not isinstance(target, list) or not all(isinstance(value, int | float) for value in target):
        return None
    return (target[0], target[1], target[2], target[3]) if len(target) == 4 else None


def offset(row: Row) -> tuple[float, float]:
    """Predicted minus true centre of a row's box; nan where the answer holds no box."""
    target, said = true_box(row), parse_box(str(row.get("scored", row["prediction"])))
    if target is None or said is None:
        return math.nan, math.nan
    dx, dy = ((said[i] + said[i + 2] - target[i] - target[i + 2]) / 2 for i in (0, 1))
    return dx, dy


def place_of(box: Box) -> str:
    """The ninth of the picture that a box's centre lies in.

    >>> place_of((0.7, 0.0, 0.9, 0.2))
    'top right'
    """
    column, row = (min(max(int(3 * (box[i] + box[i + 2]) / 2), 0), 2) for i in (0, 1))
    return BOX_PLACES[3 * row + column]


def thirds(areas: Sequence[float]) -> list[str]:
    """Which third of the areas each belongs to, by rank; equal areas share the lower one.

    >>> thirds([5, 1, 9])
    ['medium', 'small', 'large']
    """
    edges = [sorted(areas)[math.ceil(len(areas) * k / 3) - 1] for k in (1, 2)]
    return [BOX_THIRDS[sum(area > edge for edge in edges)] for area in areas]


def part_of(row: Row) -> str:
    """The first part of its task that a row is counted in, too.

    >>> part_of({"scores": {"read/exact_match": 1.0, "read/exact_match/small": 1.0}})
    'small'
    """
    headline, *others = row["scores"]
    return next((name.removeprefix(f"{headline}/") for name in parts_of(headline, others)), "")


def failure_cases(first: Sequence[Row], second: Sequence[Row]) -> list[Case]:
    """Every sample that both runs answered and that was scored, given their answered rows.

    Raises:
        ValueError: there is none, or the runs are of two data sets (`same_samples`).
    """
    pairs = [pair for pair in same_samples(first, second) if all(row["scores"] for row in pair)]
    if not pairs:
        raise ValueError("the two runs have no scored sample in common")
    boxes = {row["id"]: box for row, _ in pairs if (box := true_box(row)) is not None}
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in boxes.values()]
    sizes = dict(zip(boxes, thirds(areas) if areas else (), strict=True))
    cases = []
    for one, other in pairs:
        outcome = OUTCOMES[2 * (not is_right(one)) + (not is_right(other))]
        box = boxes.get(one["id"])
        where = (sizes[one["id"]], place_of(box), *offset(one), *offset(other)) if box else ()
        cases.append(Case(one["id"], one["task"], outcome, part_of(one), *where))
    return cases


def count_outcomes(cases: Iterable[Case], key: str) -> list[dict[str, str | int]]:
    """Outcomes by the values of a field of the cases; cases without a value are left out."""
    counts = Counter((getattr(case, key), case.outcome) for case in cases if getattr(case, key))
    known = {"size": BOX_THIRDS, "place": BOX_PLACES}.get(key) or sorted({value for value, _ in counts})
    values = [value for value in known if any(counts[value, outcome] for outcome in OUTCOMES)]
    return [{key: value} | {outcome: counts[value, outcome] for outcome in OUTCOMES} for value in values]


def mean_offsets(cases: Sequence[Case], names: Sequence[str]) -> list[dict[str, str | int | float]]:
    """Mean predicted minus true centre of each run, and its standard error: all boxes, and those of wrong answers."""
    rows = []
    for run, name in zip(("first", "second"), names, strict=True):
        wrong = ("neither", f"only {'second' if run == 'first' else 'first'}")
        for which, chosen in (("all", OUTCOMES), ("wrong", wrong)):
            moves = np.array([_move(case, run) for case in cases if case.outcome in chosen]).reshape(-1, 2)
            moves = moves[~np.isnan(moves).any(1)]
            row: dict[str, str | int | float] = {"run": name, "boxes": which, "n": len(moves)}
            for axis, label in enumerate(("dx", "dy")):
                values = moves[:, axis]
                row[label] = float(values.mean()) if len(values) else math.nan
                row[f"{label} error"] = float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else math.nan
            row["towards top left"] = float((moves < 0).all(1).mean()) if len(moves) else math.nan
            rows.append(row)
    return rows


def _panel(cases: Sequence[Case], run: str, name: str) -> tuple[str, Moves, Moves]:
    """What `plot_offsets` shows of a run: its name, the moves of right and of wrong answers."""
    boxes, right = [case for case in cases if case.place], ("both", f"only {run}")
    moves = [_move(case, run) for case in boxes if case.outcome in right]
    return name, moves, [_move(case, run) for case in boxes if case.outcome not in right]


def _move(case: Case, run: str) -> tuple[float, float]:
    return getattr(case, f"{run}_dx"), getattr(case, f"{run}_dy")


def write_table(path: Path, rows: Sequence[dict]) -> None:
    """Rows as CSV, fractions with five digits."""
    texts = [{k: value_text(v, ".5g" if isinstance(v, float) else "") for k, v in row.items()} for row in rows]
    path.write_text(csv_text(texts) + "\n", encoding="utf-8")


def print_table(rows: Sequence[dict]) -> None:
    """Rows in columns."""
    cells = [[str(key) for key in rows[0]]]
    cells += [[f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells)
    print("\n".join(lines), "\n")


@command(
    "Which samples one run gets right and another wrong.",
    argument("runs", nargs=2, type=Path, help="folders of two finished runs of one data set"),
    argument("--out", type=Path, help="by default `failures` below the second run"),
)
def main(given: Namespace) -> None:
    """Compare, write, print."""
    names = labels_of([finished_run(folder) for folder in given.runs])
    cases = failure_cases(*map(read_answers, given.runs))
    out = given.out or given.runs[1] / "failures"
    out.mkdir(parents=True, exist_ok=True)
    write_table(out / "cases.csv", [asdict(case) for case in cases])
    print(f"first: {names[0]}   second: {names[1]}   {len(cases)} samples\n")
    for key in ("task", "part", "size", "place"):
        if rows := count_outcomes(cases, key):
            print_table(rows)
    if any(case.place for case in cases):
        offsets = mean_offsets(cases, names)
        write_table(out / "offsets.csv", offsets)
        print_table(offsets)
        plot_offsets([_panel(cases, *run) for run in zip(("first", "second"), names, strict=True)], out / "offsets.png")
    print(out)


if __name__ == "__main__":
    sys.exit(main())
