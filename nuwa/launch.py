"""Run one job, or a sweep of jobs, and print a table: nuwa run [group=option] [key=value] [-m key=a,b,c]"""

from __future__ import annotations

import os
import platform
import signal
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from torch.distributed import is_torchelastic_launched

from nuwa.command import forgiving_output, print_error, without_reader
from nuwa.config import ConfigError, register
from nuwa.evaluation.run import run_job
from nuwa.evaluation.runs import Run, collect
from nuwa.evaluation.signals import stopping_at_once
from nuwa.overrides import for_hydra
from nuwa.pruners.catalogue import conf_folder
from nuwa.report.tables.runs import runs_sections
from nuwa.report.tables.speeds import speed_sections

STOPPED = {128 + signal.SIGINT: "interrupted", 128 + signal.SIGTERM: "stopped by SIGTERM"}
"""What is said of an exit status."""


def show_runs(folders: list[Path]) -> None:
    """One table of the jobs of this call and of the unpruned runs that they are compared with."""
    named = [(folder, Run.read(folder).baseline) for folder in folders]
    baselines = [folder.parent / baseline for folder, baseline in named if baseline is not None]
    runs = collect([*baselines, *folders])
    for section in (*runs_sections(runs, str(folders[0].parent)), *speed_sections(runs)):
        section.show("table")
    print(f"again, also as Markdown or CSV: nuwa report {folders[0].parent}")


def notes_folder() -> Path | None:
    """Where jobs note that they run and have ended: under a launcher here, the folder that its machines share."""
    return Path.cwd() if any(word.startswith("hydra/launcher=") for word in sys.argv) else None


def name_lost_jobs(running: Path) -> None:
    """Name the jobs whose notes in a folder say that they run, although nobody waits for them any more."""
    for note in sorted(running.iterdir()):
        host, _, process = note.name.rpartition("-")
        if host != platform.node() or not Path("/proc", process).exists():
            lost = f"error: process {process} on {host} was lost, and with it the job {note.read_text()}"
            print(f"{lost}; the same command goes on from there", file=sys.stderr)


def main() -> int:
    """Compose and run; 1 if a job failed or none has a result, 130 after Ctrl-C, 143 after SIGTERM."""
    register()
    forgiving_output()
    without_reader()
    try:
        # Hydra takes choices on one side of its flags only
        sys.argv[1:] = sorted(for_hydra(sys.argv[1:]), key=lambda word: word not in ("-m", "--multirun"))
    except ConfigError as error:
        print_error(error)
        return 1
    with tempfile.TemporaryDirectory(prefix=".nuwa-", dir=notes_folder()) as temporary:
        finished, running = Path(temporary) / "finished", Path(temporary) / "running"
        running.mkdir()  # files, because a parallel launcher runs jobs in other processes

        @hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="config")
        def job(cfg: DictConfig) -> None:
            mine = running / f"{platform.node()}-{os.getpid()}"
            with suppress(FileNotFoundError):  # who started this job has left and needs no notes
                mine.write_text(" ".join(HydraConfig.get().overrides.task))
            folder = run_job(cfg)
            with suppress(FileNotFoundError), finished.open("a") as file:
                file.write(f"{folder}\n")
            mine.unlink(missing_ok=True)

        try:
            with stopping_at_once(signal.SIGINT, signal.SIGTERM):
                job()
        except SystemExit as left:
            if left.code in STOPPED and not is_torchelastic_launched():  # else who started this process says so
                print(f"{STOPPED[left.code]}; the same command goes on from there", file=sys.stderr)
            elif left.code:
                name_lost_jobs(running)
            raise
        finally:  # an interrupted sweep shows what it has
            folders = [Path(line) for line in finished.read_text().splitlines()] if finished.exists() else []
            if folders:
                show_runs(folders)
    states = {Run.read(folder).status for folder in folders}
    return int("done" not in states or not states.isdisjoint({"failed", "unfinished", "unreadable"}))


if __name__ == "__main__":
    sys.exit(main())
