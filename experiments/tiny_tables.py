"""The paper's Tables 1-3, 7 and 8 at tiny scale, from nothing to a page with plots, unattended.

    python experiments/tiny_tables.py

Runs every job of these tables on tiny_llava and generated scenes (those that several tables share once), then writes
experiments/results/tiny/: README.md, runs.csv and plots/. Called again it computes what is missing and writes the page
anew. A job that fails leaves its reason on the page. About a quarter of an hour on one core.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import date
from importlib.metadata import distributions
from pathlib import Path

from nuwa.evaluation.runs import Run, collect, find_runs
from nuwa.report.figures.plots import write_plots
from nuwa.report.paper.printed import load_table
from nuwa.report.paper.sections import paper_sections
from nuwa.report.tables.runs import runs_section

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "experiments" / "results" / "tiny"
NAME = "tiny_tables"
LAUNCHER = "hydra-joblib-launcher"
TABLES = {
    "table1": "table1_vqa",
    "table2": "table2_grounding",
    "table3": "table3_positions",
    "table7": "ablation_d_thresh",
    "table8": "ablation_parts",
}
INTRODUCTION = """# The paper's Tables 1-3, 7 and 8 at tiny scale

Written by `python experiments/tiny_tables.py`. One tiny model (`tiny_llava`, its card is
[nuwa/tiny/llava/README.md](../../../nuwa/tiny/llava/README.md)) answers questions about generated scenes and boxes what
they ask for; the paper's LLaVA-1.5-7B stands beside it by what it keeps of its unpruned scores. These tables show
mechanisms; they do not rank methods for LLaVA-1.5.
"""


def command(experiment: str, samples: int, jobs: int, outputs: Path) -> list[str]:
    """The launch.py call of one table; jobs run side by side where the joblib launcher is installed."""
    words = [sys.executable, "launch.py", f"experiment={experiment}", f"name={NAME}", f"paths.outputs={outputs}"]
    words += [f"dataset.samples={samples}", "trainer=cpu", "trainer.batch_size=20", "logger=csv"]
    if jobs > 1 and any(found.name == LAUNCHER for found in distributions()):
        words += ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={jobs}"]
    return words


def run_tables(samples: int, jobs: int, outputs: Path) -> float:
    """Run every table, one after the other, whatever becomes of each; returns the minutes it took."""
    start = time.perf_counter()
    for table, experiment in TABLES.items():
        words = command(experiment, samples, jobs, outputs)
        print(f"{table}: {' '.join(words[1:])}", flush=True)
        subprocess.run(words, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False)
        print(f"{table}: after {(time.perf_counter() - start) / 60:.1f} minutes", flush=True)
    return (time.perf_counter() - start) / 60


def of_size(runs: Sequence[Run], samples: int) -> list[Run]:
    """The runs over so many scenes; calls with other ``--samples`` leave theirs in the same folder."""
    return [run for run in runs if run.config.get("dataset", {}).get("samples") == samples]


def write_page(runs: Sequence[Run], folder: Path, how: str) -> Path:
    """README.md, runs.csv and plots of the runs; ``how`` says how they were made."""
    every = runs_section(runs, "every run")
    parts = [INTRODUCTION, how]
    for name in TABLES:
        table = load_table(name)
        parts.append(f"## {name}: {table.title}")
        parts += [section.text("markdown") for section in paper_sections(table, runs)]
    pictures = [path for path in write_plots(runs, folder / "plots") if path.suffix == ".png"]
    parts.append("## Plots\nBars are 95 % intervals over samples.")
    parts += [f"![{path.stem}](plots/{path.name})" for path in pictures]
    parts += ["## Every run", every.text("markdown")]
    (folder / "runs.csv").write_text(every.text("csv") + "\n", encoding="utf-8")
    page = folder / "README.md"
    page.write_text("\n\n".join(part.strip() for part in parts) + "\n", encoding="utf-8")
    return page


def conditions(runs: Sequence[Run], samples: int, jobs: int, minutes: float) -> str:
    """How the numbers came about, from what the runs say of themselves."""
    commits = sorted({str(run.environment["git_commit"]) for run in runs if run.environment})
    return (
        f"{date.today()}, {samples} scenes (half of them for each task), seed 0, {jobs} jobs at a time on "
        f"{os.cpu_count()} cores ({platform.processor() or platform.machine()}), {minutes:.0f} minutes for the jobs of "
        f"this call, commit {', '.join(commits)}."
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, then write the page; 1 if no job finished."""
    words = argparse.ArgumentParser(description="The paper's Tables 1-3, 7 and 8 at tiny scale.")
    words.add_argument("--samples", type=int, default=1000, help="scenes, half of them for each task")
    words.add_argument("--jobs", type=int, default=2, help="jobs at a time")
    words.add_argument("--outputs", type=Path, default=ROOT / "outputs", help="where runs lie")
    words.add_argument("--results", type=Path, default=RESULTS, help="where the page goes")
    options = words.parse_args(arguments)
    minutes = run_tables(options.samples, options.jobs, options.outputs.resolve())
    runs = of_size(collect(find_runs(options.outputs / NAME)), options.samples)
    if not any(run.done for run in runs):
        print("error: no job finished", file=sys.stderr)
        return 1
    how = conditions(runs, options.samples, options.jobs, minutes)
    print(f"wrote {write_page(runs, options.results, how)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
