"""Run one job, or a sweep of jobs, and print a table: python launch.py [group=option] [key=value] [-m key=a,b,c]"""

from __future__ import annotations

import sys
import tempfile
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
    return int(any((read_result(folder) or {}).get("status", "failed") == "failed" for folder in folders))


if __name__ == "__main__":
    sys.exit(main())
