"""Two runs on the same samples: python -m nuwa.report.compare outputs/<name>/<run> outputs/<name>/<other run>"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nuwa.evaluation.journal import JOURNAL, JournalError, Row, read_rows
from nuwa.evaluation.pairs import compare


def main(arguments: Sequence[str] | None = None) -> int:
    """Print every metric of both runs and the p-value of their difference; 1 if they cannot be compared."""
    parser = argparse.ArgumentParser(prog="python -m nuwa.report.compare", description="Compare two runs in pairs.")
    parser.add_argument("first", type=Path, help="a run's folder")
    parser.add_argument("second", type=Path, help="another run's folder, on the same dataset")
    options = parser.parse_args(arguments)
    try:
        found = compare(_answered(options.first), _answered(options.second))
        if not found:
            raise ValueError(f"{options.first} and {options.second} have no scored sample in common")
    except (JournalError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{'metric':28} {'n':>6} {'first':>8} {'second':>8} {'p':>8}  test")
    for row in found:
        print(f"{row.metric:28} {row.n:6d} {row.first:8.4f} {row.second:8.4f} {row.p:8.4f}  {row.test}")
    return 0


def _answered(folder: Path) -> list[Row]:
    """The samples that a run has answered.

    Raises:
        JournalError: the folder has no journal, or a broken one.
    """
    if not (folder / JOURNAL).is_file():
        raise JournalError(f"{folder} has no {JOURNAL}: name the folder of a run")
    return [row for row in read_rows(folder / JOURNAL) if row["status"] == "ok"]


if __name__ == "__main__":
    sys.exit(main())
