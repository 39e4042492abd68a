"""Table of every run below a folder: python -m nuwa.report outputs/<name> [--format table|markdown|csv]"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nuwa.report.table import collect, csv_table, find_runs, markdown_table, print_rows, rows_of


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; exit status 1 if there is nothing to show."""
    parser = argparse.ArgumentParser(prog="python -m nuwa.report", description="Table of every run below a folder.")
    parser.add_argument("folder", type=Path, help="outputs, outputs/<name> or one run's folder")
    parser.add_argument("--format", choices=("table", "markdown", "csv"), default="table")
    options = parser.parse_args(arguments)
    runs = find_runs(options.folder)
    if not runs:
        print(f"error: no runs below {options.folder}", file=sys.stderr)
        return 1
    rows = rows_of(collect(runs))
    if options.format == "table":
        print_rows(rows, str(options.folder))
    else:
        print(markdown_table(rows) if options.format == "markdown" else csv_table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
