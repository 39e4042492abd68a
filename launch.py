"""Run one job, or a sweep of jobs, and print a table: python launch.py [group=option] [key=value] [-m key=a,b,c]"""

from __future__ import annotations

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from nuwa.config import register
from nuwa.evaluation.result import read_result
from nuwa.evaluation.run import run_job
from nuwa.report.table import collect, print_rows, rows_of

CONF = Path(__file__).resolve().parent / "conf"


def print_table(folders: list[Path]) -> None:
    """One table of the jobs of this call and of the unpruned runs that they are compared with."""
    results = [(folder, read_result(folder) or {}) for folder in folders]
    baselines = [folder.parent / result["baseline"] for folder, result in results if "baseline" in result]
    print_rows(rows_of(collect([*baselines, *folders])), str(folders[0].parent))
    print(f"again, also as Markdown or CSV: python -m nuwa.report {folders[0].parent}")


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
