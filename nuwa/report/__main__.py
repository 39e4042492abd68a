"""Tables of runs, alone or beside the papers' printed numbers.

python -m nuwa.report outputs/<name> [more folders]      every run below the folders, in one table
python -m nuwa.report outputs/<name> --expected table5   ours / paper / difference; --check: status 1 if one is off
python -m nuwa.report --expected table5                  does the printed retention follow from the printed cells?
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nuwa.evaluation.runs import Result
from nuwa.report.dashboard import log_report
from nuwa.report.expected import ExpectedError, PaperTable, load_table, table_names
from nuwa.report.plots import PlotsError, write_plots
from nuwa.report.sections import Section, paper_sections, printed_sections, runs_section
from nuwa.report.table import TableError, collect, find_runs


def parser() -> argparse.ArgumentParser:
    """The command line."""
    words = argparse.ArgumentParser(prog="python -m nuwa.report", description="Tables of runs, and the papers' beside.")
    words.add_argument(
        "folders", type=Path, nargs="*", help="outputs, outputs/<name>, a run's folder, or an experiment"
    )
    words.add_argument("--expected", default="", help="printed tables to compare with: table5, table1,table2, all")
    words.add_argument("--full", action="store_true", help="95 %% intervals, leaving tokens, a method's own cost")
    words.add_argument("--beside", default="", help="a choice whose values stand side by side, e.g. position")
    words.add_argument("--check", action="store_true", help="exit with 1 if a number is outside its tolerance")
    words.add_argument("--format", choices=("table", "markdown", "csv", "latex"), default="table")
    words.add_argument("--plots", type=Path, help="folder for plots of the runs, PNG and SVG (needs the extra plots)")
    words.add_argument("--wandb", action="store_true", help="log the report to W&B, beside the runs (conf/logger)")
    return words


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what was asked for; exit status 1 if there is nothing to show, or a check fails."""
    words = parser()
    options = words.parse_args(arguments)
    names = table_names() if options.expected == "all" else [name for name in options.expected.split(",") if name]
    if not options.folders and not names:
        words.error("needs a folder of runs, or --expected with a printed table, e.g. table5")
    if (options.full or options.beside) and names:
        words.error("--full and --beside are about a table of runs, --expected about printed ones: one or the other")
    if options.check and not names:
        words.error("--check needs --expected: there is nothing to check against")
    if (options.plots or options.wandb) and not options.folders:
        words.error("--plots and --wandb need a folder of runs")
    try:
        tables = [load_table(name) for name in names]
        runs = find_runs(*map(folder_of, options.folders))
        if options.folders and not runs:
            raise ExpectedError(f"no runs below {', '.join(map(str, options.folders))}")
        results = collect(runs)
        if not tables:
            title = ", ".join(map(str, options.folders))
            sections = [runs_section(results, title, options.full, options.beside)]
        else:
            sections = [part for table in tables for part in _table_sections(table, results)]
    except (ExpectedError, TableError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    show(sections, options.format)
    if options.plots and not _plotted(results, options.plots):
        return 1
    if options.wandb and not log_report(results, sections, folder_of(options.folders[0])):
        print("error: the report is not on W&B", file=sys.stderr)
        return 1
    off = [section.title for section in sections if section.fails] if options.check else []
    for title in off:
        print(f"check failed: {title}", file=sys.stderr)
    return int(bool(off))


def _plotted(results: Sequence[Result], folder: Path) -> bool:
    """Write the plots; False, with the reason, if there can be none."""
    try:
        for path in write_plots(results, folder):
            print(f"wrote {path}", file=sys.stderr)
    except PlotsError as error:
        print(f"error: {error}", file=sys.stderr)
        return False
    return True


def _table_sections(table: PaperTable, results: Sequence[Result]) -> list[Section]:
    return paper_sections(table, results) if results else printed_sections(table)


def show(sections: Sequence[Section], form: str) -> None:
    """Print sections one after the other, an empty line between them."""
    for number, section in enumerate(sections):
        if number:
            print()
        section.show(form)


def folder_of(path: Path) -> Path:
    """The folder itself, or outputs/<experiment> where that is what was named."""
    return path if path.exists() or not (Path("outputs") / path).is_dir() else Path("outputs") / path


if __name__ == "__main__":
    sys.exit(main())
