"""Run one job, or a sweep of jobs, and print a table: python launch.py [group=option] [key=value] [-m key=a,b,c]"""

from __future__ import annotations

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig
from rich.console import Console

from nuwa.config import register
from nuwa.evaluation.result import read_result
from nuwa.evaluation.run import run_job
from nuwa.report.table import collect, rich_table, rows_of

CONF = Path(__file__).resolve().parent / "conf"


def print_table(folders: list[Path]) -> None:
    """One table of the jobs of this call and of the unpruned runs that they are compared with."""
    results = [read_result(folder) or {} for folder in folders]
    baselines = [
        folder.parent / result["baseline"]
        for folder, result in zip(folders, results, strict=True)
        if "baseline" in result
    ]
    console = Console()
    console.print(rich_table(rows_of(collect([*baselines, *folders])), f"{folders[0].parent}"))
    console.print(f"again, and as Markdown or CSV: python -m nuwa.report {folders[0].parent}", style="dim")


def main() -> int:
    """Compose and run; 1 if a job failed."""
    register()
    finished: list[Path] = []

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
    def job(cfg: DictConfig) -> str:
        finished.append(run_job(cfg))
        return str(finished[-1])

    try:
        job()
    finally:  # an interrupted sweep shows what it has
        if finished:
            print_table(finished)
    return int(any((read_result(folder) or {}).get("status", "failed") == "failed" for folder in finished))


if __name__ == "__main__":
    sys.exit(main())
