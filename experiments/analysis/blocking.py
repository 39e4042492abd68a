"""The paper's Table 15: accuracy with attention to the image cut in a quarter of the layers.

    python launch.py experiment=attention_blocking dataset.samples=120    # answers, 13 jobs
    python experiments/analysis/blocking.py                               # the table of outputs/attention_blocking
    python experiments/analysis/blocking.py outputs/my_sweep

Writes results/blocking_<model>, CSV and PNG.
"""

import sys
from pathlib import Path

import matplotlib
from common import RESULTS, write_csv
from matplotlib.figure import Figure

from nuwa.evaluation.runs import Run
from nuwa.report.figures.style import COLOURS, PLOT_SETTINGS
from nuwa.report.labels import metric_label, model_label

HEADLINES = ("/exact_match", "/acc@0.5")


def read_runs(folder: Path) -> list[dict]:
    """One row per finished run: who was blocked, where, and its metrics; the unblocked run of a data set first."""
    rows = []
    for run in map(Run.read, sorted(path for path in folder.iterdir() if path.is_dir())):
        if run.done:
            source, layers = run.config["blocking"].values()
            who = "nothing" if source is None else f"{source} to vision"
            row = {"model": run.model, "dataset": run.dataset, "blocked": who, "layers": layers}
            errors = {f"{name} error": value for name, value in run.standard_errors.items()}
            rows.append(row | {"n": run.n} | run.metrics | errors)
    return sorted(
        rows, key=lambda row: (row["model"], row["dataset"], row["layers"] != "1/1", *list(row.values())[2:4])
    )


def plot(rows: list[dict], name: str) -> Path:
    """A panel per metric: bars by quarter, one colour per source; the unblocked run as a line."""
    metrics = [key for key in rows[0] if key.endswith(HEADLINES)]
    with matplotlib.rc_context(PLOT_SETTINGS):
        figure = Figure(figsize=(4.5 * len(metrics) + 1.5, 3.2), layout="constrained")
        for axes, metric in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True):
            sources = sorted({row["blocked"] for row in rows} - {"nothing"})
            parts = sorted({row["layers"] for row in rows if row["blocked"] != "nothing"})
            for number, source in enumerate(sources):
                own = {row["layers"]: row for row in rows if row["blocked"] == source}
                places = [parts.index(part) + 0.26 * (number - 1) for part in own]
                errors = [row[f"{metric} error"] for row in own.values()]
                axes.bar(
                    places,
                    [row[metric] for row in own.values()],
                    0.25,
                    yerr=errors,
                    color=COLOURS[number],
                    label=source,
                )
            for row in rows:
                if row["blocked"] == "nothing":
                    axes.axhline(row[metric], color="black", linestyle="--", linewidth=1, label="nothing")
            axes.set(
                title=metric_label(metric, rows[0]["dataset"]), xlabel="blocked quarter of the layers", ylim=(0, 1)
            )
            axes.set_xticks(range(len(parts)), parts)
        figure.suptitle(f"{model_label(rows[0]['model'])} (bars: ±1 standard error)", fontsize=9)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", fontsize=8, frameon=False)
        path = RESULTS / f"{name}.png"
        figure.savefig(path, dpi=110, metadata={"Software": None}, pil_kwargs={"optimize": True})
    return path


def main(folder: str = "outputs/attention_blocking") -> None:
    """A table and a plot per model."""
    rows = read_runs(Path(folder))
    for model in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == model]
        print(write_csv(f"blocking_{model}", own))
        print(plot(own, f"blocking_{model}"))
        for row in own:
            print("  ".join(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()))


if __name__ == "__main__":
    main(*sys.argv[1:])
