"""A folder that shows every decision of runs in a browser, from disk: samples, answers, tokens, results.

nuwa explore outputs/main                      # outputs/main/explorer/index.html
nuwa explore outputs/main --samples 1000 --out shown
"""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

from nuwa.command import argument, command
from nuwa.evaluation.runs import by_key, find_runs
from nuwa.explore.folder import INDEX_NAME, prepare_folder, write_data
from nuwa.explore.results import results_of
from nuwa.explore.samples import Plain, plain_run, plain_sample, read_runs, sample_sets
from nuwa.explore.tracing import SAMPLES_A_FILE, SetWriter
from nuwa.report.labels import labels_of


def write_explorer(root: Path, out: Path, count: int, keys: list[str]) -> None:
    """The explorer of the runs below ``root``, in the folder ``out``.

    Raises:
        ValueError: there is nothing to show, or the folder is in use.
    """
    found, remarks = read_runs(root, keys)
    sets = sample_sets(found, count)
    prepare_folder(out)
    runs: list[Plain] = []
    samples: list[Plain] = []
    for number, one in enumerate(sets):
        writer = SetWriter(out, number, one)
        writer.write()
        for run, label in zip(one.runs, labels_of([run.run for run in one.runs]), strict=True):
            runs.append(plain_run(run, label, number, out) | {"reason": writer.reasons.get(run.run.run_key, "")})
        for place, name in enumerate(one.ids):
            samples.append(plain_sample(one, name) | {"set": number, "number": place} | writer.shown.get(name, {}))
    remarks += [f"{run['label']} {run['key']}: no tokens are shown, {run['reason']}" for run in runs if run["reason"]]
    data = [{"name": one.name, "total": one.total} for one in sets]
    shown = {"name": str(root), "sets": data, "notes": remarks, "chunk": SAMPLES_A_FILE}
    folders = [folder for key, (folder, _) in by_key(find_runs(root)).items() if key.startswith(tuple(keys or [""]))]
    write_data(out, "results", results_of(folders))
    write_data(out, INDEX_NAME, shown | {"runs": runs, "samples": samples})


@command(
    "A folder that shows every decision of runs in a browser, opened from disk.",
    argument("root", type=Path, help="outputs/<name>"),
    argument("--out", type=Path, help="the folder to write, by default `explorer` below the runs"),
    argument("--samples", type=int, default=200, help="how many of the first samples of each data set (200)"),
    argument("--runs", nargs="+", default=[], metavar="KEY", help="only these runs; a key's beginning is enough"),
)
def main(options: Namespace) -> None:
    """Write the folder and print where it is."""
    if options.samples < 1:
        raise ValueError(f"--samples {options.samples}: must be at least 1")
    out = options.out or options.root / "explorer"
    write_explorer(options.root, out, options.samples, options.runs)
    print(out / "index.html")


if __name__ == "__main__":
    sys.exit(main())
