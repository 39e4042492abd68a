"""Memory and time of a job over thousands of rows: does memory grow with the samples, and what does the data cost?

    python experiments/speed/data_memory.py --rows 5000 --work outputs/data_memory

Writes a POPE-like parquet of generated photographs (640 x 480 JPEG, about 75 kB each) and runs the tiny model on it,
without an unpruned run beside it and without keeping vision features. Leaves the memory of the process and of its
workers (anonymous pages; the memory-mapped data are the kernel's to drop) as samples are answered, as CSV and PNG, and
prints how memory grew and which share of the time was spent in the model.
"""

from __future__ import annotations

import argparse
import csv
import io
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import hydra
import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image

from nuwa.config import register, run_key
from nuwa.evaluation.journal import JOURNAL
from nuwa.evaluation.module import Evaluation
from nuwa.evaluation.result import read_result
from nuwa.evaluation.run import run_job

CONF = Path(__file__).resolve().parents[2] / "conf"
STEPS = 50
FIXED = (
    "dataset=pope", "baseline=skip", "resume=false", "logger=none", "callbacks=none", "generation.max_new_tokens=8",
    "trainer.num_workers=1", "trainer.cache_gb=0",
)  # fmt: skip
Point = tuple[int, float, float]
"""Samples answered, and the memory of the process and of its workers in MB."""


def write_rows(folder: Path, rows: int) -> None:
    """A parquet of ``rows`` questions in POPE's columns, written in portions."""
    rng, writer = np.random.default_rng(0), None
    for start in range(0, rows, 500):
        part = []
        for i in range(start, min(start + 500, rows)):
            coarse = rng.integers(0, 256, (120, 160, 3), dtype=np.uint8)
            out = io.BytesIO()
            Image.fromarray(coarse).resize((640, 480), Image.Resampling.BILINEAR).save(out, "JPEG")
            cell = {"bytes": out.getvalue(), "path": f"{i}.jpg"}
            row = {"question_id": str(i), "question": "is there a red circle ?", "answer": ("yes", "no")[i % 2]}
            part.append(row | {"category": "random", "image": cell})
        table = pyarrow.Table.from_pylist(part)
        writer = writer or pyarrow.parquet.ParquetWriter(folder / "test-00000-of-00001.parquet", table.schema)
        writer.write_table(table, row_group_size=100)  # as the hub has them
    writer.close()


def anonymous(process: int) -> float:
    """A process's anonymous memory in MB; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:")) / 1024


def watch(journal: Path, total: int, stop: threading.Event, points: list[Point]) -> None:
    """Note memory at every fiftieth of the samples; a batch writes its lines at once."""
    answered, read, step, ended = 0, 0, 0, False
    while not ended:
        ended = stop.wait(0.2)
        if journal.exists():
            with journal.open("rb") as file:
                file.seek(read)
                chunk = file.read()
            answered, read = answered + chunk.count(b"\n"), read + len(chunk)
        if answered * STEPS // total > step:
            step = answered * STEPS // total
            workers = sum(anonymous(worker.pid) for worker in multiprocessing.active_children())
            points.append((answered, anonymous(os.getpid()), workers))
            print("{:6d} samples answered, {:7.1f} MB, workers {:7.1f} MB".format(*points[-1]), flush=True)


@contextmanager
def timed(owner: type, name: str) -> Iterator[list[float]]:
    """The seconds of every call of a method, as long as the block lasts."""
    seconds, plain = [], getattr(owner, name)

    def measured(*arguments: object) -> object:
        start = time.perf_counter()
        try:
            return plain(*arguments)
        finally:
            seconds.append(time.perf_counter() - start)

    with patch.object(owner, name, measured):
        yield seconds


def show(points: list[Point], place: Path) -> None:
    """Write the points as CSV and PNG, and print how much memory a thousand samples took."""
    with place.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("samples", "process_mb", "workers_mb"))
        writer.writerows((answered, f"{own:.1f}", f"{workers:.1f}") for answered, own, workers in points)
    answered, own, _ = np.array(points[len(points) // 10 :]).T  # the first tenth fills caches
    growth = np.polyfit(answered, own, 1)[0] * 1000
    print(f"memory {own.min():.1f} to {own.max():.1f} MB, {growth:+.2f} MB per thousand samples; wrote {place}.csv")
    from matplotlib.figure import Figure

    figure = Figure((6, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(*np.array(points).T[[0, 1]], label="process")
    axes.plot(*np.array(points).T[[0, 2]], label="worker")
    axes.set(xlabel="samples answered", ylabel="anonymous memory (MB)", ylim=(0, None), xlim=(0, None))
    axes.legend(frameon=False)
    figure.savefig(place.with_suffix(".png"), dpi=150)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--work", type=Path, default=Path("outputs/data_memory"))
    parser.add_argument("--results", type=Path, help="folder for data_memory.csv and .png; without, the work folder")
    parser.add_argument("overrides", nargs="*", help="as for launch.py, e.g. dataset.streaming=true")
    options = parser.parse_args()
    data, results = options.work / f"rows_{options.rows}", options.results or options.work
    for folder in (data, results):
        folder.mkdir(parents=True, exist_ok=True)
    if not list(data.glob("*.parquet")):
        write_rows(data, options.rows)
    register()
    places = (f"dataset.path={data}", f"paths.outputs={options.work}")
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra.compose("config", overrides=[*FIXED, *places, *options.overrides])
    folder, stop, points = options.work / cfg.name / run_key(cfg), threading.Event(), []
    (folder / JOURNAL).unlink(missing_ok=True)
    watcher = threading.Thread(target=watch, args=(folder / JOURNAL, options.rows, stop, points))
    watcher.start()
    try:
        with timed(Evaluation, "_generate") as seconds:
            run_job(cfg)
    finally:
        stop.set()
        watcher.join()
    result = read_result(folder)
    if result["status"] != "done":
        raise SystemExit(f"error: {folder}: {result['reason']}")
    timings = result["timings"]
    running = timings["job_seconds"] - timings["load_seconds"]
    print(f"{result['n']} samples in {running:.1f} s, besides {timings['load_seconds']:.1f} s for loading the model:")
    print(f"{sum(seconds) / running:.1%} in generate; {timings['answering_seconds'] / running:.1%} with what it said")
    show(points, results / "data_memory")


if __name__ == "__main__":
    main()
