"""Two runs on the same samples: python -m nuwa.report.compare outputs/<name>/<run> outputs/<name>/<other run>"""

from __future__ import annotations

import sys
from argparse import Namespace
from operator import eq
from pathlib import Path

from nuwa.command import argument, command
from nuwa.evaluation.journal import JOURNAL, JournalError, read_answers
from nuwa.evaluation.pairs import paired_tests
from nuwa.evaluation.statistics import answered_by_both


@command(
    "Compare two runs in pairs.",
    argument("first", type=Path, help="a run's folder"),
    argument("second", type=Path, help="another run's folder, on the same dataset"),
)
def main(options: Namespace) -> None:
    """Print every metric of both runs and the p-value of their difference; 1 if they cannot be compared."""
    for folder in (options.first, options.second):
        if not (folder / JOURNAL).is_file():
            raise JournalError(f"{folder} has no {JOURNAL}: name the folder of a run")
    first, second = read_answers(options.first), read_answers(options.second)
    found = paired_tests(first, second)
    if not found:
        raise ValueError(f"{options.first} and {options.second} have no scored sample in common")
    print(f"{'metric':28} {'n':>6} {'first':>8} {'second':>8} {'p':>8}  test")
    for row in found:
        print(f"{row.metric:28} {row.n:6d} {row.first:8.4f} {row.second:8.4f} {row.p:8.4f}  {row.test}")
    texts = [[row["prediction"] for row in rows] for rows in answered_by_both(first, second)]
    print(f"the same answer, letter by letter: {sum(map(eq, *texts))} of {len(texts[0])}")


if __name__ == "__main__":
    sys.exit(main())
