"""Memory and time of a job over thousands of rows: does memory grow with the samples, and what does the data cost?

    python experiments/speed/data_memory.py --rows 5000 --work outputs/data_memory

Writes a POPE-like parquet of generated photographs (640 x 480 JPEG, about 75 kB each), runs the tiny model on it, and
prints this process's own memory (anonymous pages; the memory-mapped data are the kernel's to drop) as samples are
answered, and the share of the time that was spent answering. No prune-free run is made beside it.
"""

from __future__ import annotations

import argparse
import io
import threading
import time
from pathlib import Path

import hydra
import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image

from nuwa.config import register
from nuwa.evaluation.journal import JOURNAL
from nuwa.evaluation.result import read_result
from nuwa.evaluation.run import run_job

CONF = Path(__file__).resolve().parents[2] / "conf"
STEPS = 10


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
        writer.write_table(table)
    writer.close()


def own_memory() -> float:
    """This process's anonymous memory in MB."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:")) / 1024


def watch(journal: Path, total: int, stop: threading.Event) -> None:
    """Print memory at every tenth of the samples; a batch writes its lines at once."""
    step, answered, read = 0, 0, 0
    while not stop.wait(0.5):
        if journal.exists():
            with journal.open("rb") as file:
                file.seek(read)
                chunk = file.read()
            answered, read = answered + chunk.count(b"\n"), read + len(chunk)
        if answered * STEPS >= (step + 1) * total:
            step = answered * STEPS // total
            print(f"{answered:6d} samples answered, {own_memory():7.1f} MB", flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--work", type=Path, default=Path("outputs/data_memory"))
    parser.add_argument("overrides", nargs="*", help="as for launch.py, e.g. model=llava_1_5_random")
    options = parser.parse_args()
    data = options.work / f"rows_{options.rows}"
    data.mkdir(parents=True, exist_ok=True)
    if not list(data.glob("*.parquet")):
        write_rows(data, options.rows)
    register()
    fixed = ["dataset=pope", f"dataset.path={data}", f"paths.outputs={options.work}", "resume=false", "baseline=skip"]
    fixed += ["logger=none", "callbacks=none", "generation.max_new_tokens=8", "trainer.num_workers=1"]
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra.compose("config", overrides=[*fixed, *options.overrides])
    from nuwa.config import run_key

    folder, stop = options.work / cfg.name / run_key(cfg), threading.Event()
    (folder / JOURNAL).unlink(missing_ok=True)
    watcher = threading.Thread(target=watch, args=(folder / JOURNAL, options.rows, stop))
    watcher.start()
    start = time.perf_counter()
    run_job(cfg)
    seconds = time.perf_counter() - start
    stop.set()
    watcher.join()
    result = read_result(folder)
    timings = result["timings"]
    running = timings["job_seconds"] - timings["load_seconds"]
    print(
        f"{result['n']} samples in {seconds:.1f} s, of which the model was loaded in {timings['load_seconds']:.1f} s;"
    )
    print(f"answering took {timings['answering_seconds'] / running:.1%} of the other {running:.1f} s")


if __name__ == "__main__":
    main()
