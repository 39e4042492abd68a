"""Run one job, or a sweep of jobs, and print a table: nuwa run [group=option] [key=value] [-m key=a,b,c]"""

from __future__ import annotations

import signal
import sys
import tempfile
from pathlib import Path

import hydra
from omegaconf import DictConfig
from torch.distributed import is_torchelastic_launched

from nuwa.command import forgiving_output, print_error, without_reader
from nuwa.config import ConfigError, register
from nuwa.evaluation.run import run_job
from nuwa.evaluation.runs import Run, collect
from nuwa.evaluation.signals import stopping_at_once
from nuwa.overrides import for_hydra
from nuwa.pruners.catalogue import conf_folder
from nuwa.report.tables.runs import runs_section
from nuwa.report.tables.speeds import speed_sections

STOPPED = {128 + signal.SIGINT: "interrupted", 128 + signal.SIGTERM: "stopped by SIGTERM"}
"""What is said of an exit status."""


def show_runs(folders: list[Path]) -> None:
    """One table of the jobs of this call and of the unpruned runs that they are compared with."""
    named = [(folder, Run.read(folder).baseline) for folder in folders]
    baselines = [folder.parent / baseline for folder, baseline in named if baseline is not None]
    runs = collect([*baselines, *folders])
    for section in (runs_section(runs, str(folders[0].parent)), *speed_sections(runs)):
        section.show("table")
    print(f"again, also as Markdown or CSV: nuwa report {folders[0].parent}")


def main() -> int:
    """Compose and run; 1 if a job failed or none has a result, 130 after Ctrl-C, 143 after SIGTERM."""
    register()
    forgiving_output()
    without_reader()
    try:
        sys.argv[1:] = for_hydra(sys.argv[1:])
    except ConfigError as error:
        print_error(error)
        return 1
    with tempfile.TemporaryDirectory() as temporary:
        finished = Path(temporary) / "finished"  # a file, because a parallel launcher runs jobs in other processes

        @hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="config")
        def job(cfg: DictConfig) -> None:
            folder = run_job(cfg)
            with finished.open("a") as file:
                file.write(f"{folder}\n")

        try:
            with stopping_at_once(signal.SIGINT, signal.SIGTERM):
                job()
        except SystemExit as left:
            if left.code in STOPPED and not is_torchelastic_launched():  # else who started this process says so
                print(f"{STOPPED[left.code]}; the same command goes on from there", file=sys.stderr)
            raise
        finally:  # an interrupted sweep shows what it has
            folders = [Path(line) for line in finished.read_text().splitlines()] if finished.exists() else []
            if folders:
                show_runs(folders)
    states = {Run.read(folder).status for folder in folders}
    return int("done" not in states or not states.isdisjoint({"failed", "unfinished", "unreadable"}))


if __name__ == "__main__":
    sys.exit(main())
