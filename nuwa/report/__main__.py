"""Tables of runs, alone or beside the papers' printed numbers.

nuwa report outputs/<name> [more folders]      every run below the folders, in one table
nuwa report outputs/<name> --expected table5   ours / paper / difference; --check: status 1 if one is off
nuwa report --expected table5                  the printed numbers alone
"""

from __future__ import annotations

import importlib
import sys
from argparse import ArgumentError, Namespace
from collections.abc import Sequence
from pathlib import Path

from nuwa.command import argument, command
from nuwa.evaluation.runs import Run, collect, find_runs
from nuwa.report.dashboard import log_report
from nuwa.report.figures.plots import write_plots
from nuwa.report.paper.printed import load_table, table_names
from nuwa.report.paper.sections import paper_sections, printed_section
from nuwa.report.tables.publication import publication_sections
from nuwa.report.tables.runs import runs_section, runs_sections
from nuwa.report.tables.section import FORMS, Section
from nuwa.report.tables.speeds import speed_sections

TASKS = ("compare", "retention", "profile", "choose", "failures", "pictures", "methods")
"""Reports of their own, each a module: ``nuwa report profile outputs/<name>`` is ``nuwa profile ...``."""


def report_sections(runs: Sequence[Run], options: Namespace) -> list[Section]:
    """The tables that were asked for.

    Raises:
        ValueError: there is no such table.
    """
    names = options.expected.split(",")
    tables = [load_table(name) for name in (table_names() if names == ["all"] else names) if name]
    if not tables:
        return [*_runs_sections(runs, options), *speed_sections(runs)]
    if not runs:
        return [printed_section(table) for table in tables]
    return [section for table in tables for section in paper_sections(table, runs)]


def _runs_sections(runs: Sequence[Run], options: Namespace) -> list[Section]:
    """A table for each model and data set; for a spreadsheet one of all, for LaTeX in a paper's words."""
    title = ", ".join(map(str, options.folders))
    if options.format == "csv":
        return [runs_section(runs, title, options.full, options.beside, options.parts)]
    if options.format == "latex" and not (options.full or options.beside):
        return publication_sections(runs, options.parts) or [runs_section(runs, title)]
    return runs_sections(runs, title, options.full, options.beside, options.parts)


@command(
    "Tables of runs, and the papers' beside.",
    argument("folders", type=Path, nargs="*", help="outputs, outputs/<name>, a run's folder, or an experiment"),
    argument("--expected", default="", help="printed tables to compare with: table5, table1,table2, all"),
    argument("--full", action="store_true", help="95 %% intervals, leaving tokens, a method's own cost"),
    argument("--parts", action="store_true", help="each score by size, kind or source, where its data set tells them"),
    argument("--beside", default="", help="a choice whose values stand side by side, e.g. position"),
    argument("--check", action="store_true", help="exit with 1 if a number is outside its tolerance"),
    argument("--format", choices=FORMS, default="table"),
    argument("--plots", type=Path, help="folder for plots of the runs, PNG and SVG (needs the extra plots)"),
    argument("--wandb", action="store_true", help="log the report to W&B, beside the runs (conf/logger)"),
)
def main(options: Namespace) -> int:
    """Print what was asked for; exit status 1 if there is nothing to show, or a check fails."""
    _check_options(options)
    folders = [_outputs_of(folder) for folder in options.folders]
    runs = collect(find_runs(*folders))
    if folders and not runs:
        raise ValueError(f"no runs below {', '.join(map(str, options.folders))}")
    sections = report_sections(runs, options)
    for number, section in enumerate(sections):
        print(end="\n" * (number > 0))
        section.show(options.format)
    for path in write_plots(runs, options.plots) if options.plots else ():
        print(f"wrote {path}", file=sys.stderr)
    whole = Namespace(**vars(options) | {"format": "csv"})  # a dashboard sorts and filters by itself
    if options.wandb and not log_report(runs, report_sections(runs, whole), folders[0]):
        raise ValueError("the report is not on W&B")
    off = [section.title for section in sections if section.fails] if options.check else []
    for title in off:
        print(f"check failed: {title}", file=sys.stderr)
    return int(bool(off))


def _check_options(options: Namespace) -> None:
    """Refuse options that do not go together: an ArgumentError says why."""
    reason = ""
    if not options.folders and not options.expected:
        reason = "needs a folder of runs, or --expected with a printed table, e.g. table5"
    elif (options.full or options.parts or options.beside) and options.expected:
        reason = (
            "--full, --parts and --beside are about a table of runs, --expected about printed ones: one or the other"
        )
    elif options.check and not (options.expected and options.folders):
        reason = "--check needs a folder of runs, and --expected with what to check them against"
    elif (options.plots or options.wandb) and not options.folders:
        reason = "--plots and --wandb need a folder of runs"
    if reason:
        raise ArgumentError(None, reason)


def _outputs_of(path: Path) -> Path:
    """The folder itself, or outputs/<experiment> where that is what was named."""
    return path if path.exists() or not (Path("outputs") / path).is_dir() else Path("outputs") / path


if __name__ == "__main__":
    if len(sys.argv) > 2 and sys.argv[1] in TASKS:
        module = importlib.import_module(f"nuwa.report.{sys.argv[1]}")
        sys.exit(module.main(sys.argv[2:]))
    sys.exit(main())
