"""Run one job, or a sweep of jobs, and print a table: python launch.py [group=option] [key=value] [-m key=a,b,c]"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import hydra
from omegaconf import DictConfig

from nuwa.command import forgiving_output
from nuwa.config import register
from nuwa.evaluation.run import run_job
from nuwa.evaluation.runs import Run, collect
from nuwa.report.tables.runs import runs_section

CONF = Path(__file__).resolve().parent / "conf"


def print_table(folders: list[Path]) -> None:
    """One table of the jobs of this call and of the unpruned runs that they are compared with."""
    named = [(folder, Run.read(folder).baseline) for folder in folders]
    baselines = [folder.parent / baseline for folder, baseline in named if baseline is not None]
    runs_section(collect([*baselines, *folders]), str(folders[0].parent)).show("table")
    print(f"again, also as Markdown or CSV: python -m nuwa.report {folders[0].parent}")


def main() -> int:
    """Compose and run; 1 if a job failed."""
    register()
    forgiving_output()
    with tempfile.TemporaryDirectory() as temporary:
        finished = Path(temporary) / "finished"  # a file, because a parallel launcher runs jobs in other processes

        @hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
        def job(cfg: DictConfig) -> None:
            folder = run_job(cfg)
            with finished.open("a") as file:
                file.write(f"{folder}\n")

        try:
            job()
        finally:  # an interrupted sweep shows what it has
            folders = [Path(line) for line in finished.read_text().splitlines()] if finished.exists() else []
            if folders:
                print_table(folders)
    return int(any(Run.read(folder).status in ("failed", "unfinished", "unreadable") for folder in folders))


if __name__ == "__main__":
    sys.exit(main())
