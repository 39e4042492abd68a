"""What the scripts of this folder share: a model and samples from the config, tables as CSV, lines over layers."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import hydra
import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich.progress import track

from nuwa.analysis.survey import Record
from nuwa.benchmarks.base import Benchmark
from nuwa.config import build, register
from nuwa.evaluation.check import check
from nuwa.models.loaded import LoadedModel
from nuwa.report.figures.style import COLOURS, MARKERS, PLOT_SETTINGS
from nuwa.report.labels import model_label
from nuwa.samples import Sample

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
SAMPLES = "dataset.samples=48"
"""Half of them questions, half referring expressions; said again on the command line, another number wins."""
Measure = Callable[[LoadedModel, Benchmark, Sample], list[Record]]

WORDS = {
    "vqa": "questions", "vg": "grounding", "token": "per token", "group": "per group", "llm": "LLM",
    "vae": "attention entropy (Eq. 1)", "vae_all": "attention entropy, all tokens", "occ": "cohesion (Eq. 2)",
}  # fmt: skip
"""What panels and lines are called."""


def in_words(key: str) -> str:
    """A key as a reader says it."""
    return WORDS.get(key, key)


def parts_of(overrides: Sequence[str]) -> tuple[LoadedModel, Benchmark, int]:
    """The unpruned model, the benchmark and how many of its samples to take; overrides as for ``launch.py``."""
    register()
    with hydra.initialize_config_dir(str(HERE.parents[1] / "conf"), version_base="1.3"):
        default = [] if any(word.startswith("dataset=") for word in overrides) else [SAMPLES]
        cfg = hydra.compose("config", ["pruner=none", "budget=full", *default, *overrides])
    parts = check(cfg)
    return build(parts.model), parts.benchmark, parts.benchmark.take(cfg.limit)


def survey(measure: Measure, overrides: Sequence[str]) -> tuple[str, list[Record]]:
    """The model's name, and the records of every sample."""
    loaded, benchmark, count = parts_of(overrides)
    samples = track((benchmark[i] for i in range(count)), loaded.name, count, disable=not sys.stdout.isatty())
    return loaded.name, [entry for sample in samples for entry in measure(loaded, benchmark, sample)]


def write_csv(name: str, rows: Iterable[dict[str, Any]]) -> Path:
    """A table below ``results``, numbers with five digits."""
    rows = [{k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows]
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def plot_layers(
    analysis: str,
    model: str,
    rows: Iterable[dict[str, Any]],
    panel: Sequence[str],
    line: Sequence[str],
    ylabel: str | dict[str, str],
) -> Path:
    """Lines of ``mean`` over ``layer`` with bars of one standard error, a panel per value of ``panel``.

    ``ylabel``: one for all panels, or by the first key of a panel; shares are drawn from 0 to 1.
    """
    panels: dict[tuple, dict[tuple, list[dict]]] = {}
    for row in rows:
        lines = panels.setdefault(tuple(row[key] for key in panel), {})
        lines.setdefault(tuple(row[key] for key in line), []).append(row)
    names = list(dict.fromkeys(key for lines in panels.values() for key in lines))
    with matplotlib.rc_context(PLOT_SETTINGS):
        figure = Figure(figsize=(4 * len(panels) + 1.5, 3.2), layout="constrained")
        grid = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, (title, lines) in zip(grid, panels.items(), strict=True):
            for key, members in lines.items():
                number = names.index(key)
                axes.errorbar(
                    *([row[column] for row in members] for column in ("layer", "mean", "error")),
                    color=COLOURS[number % len(COLOURS)],
                    marker=MARKERS[number % len(MARKERS)],
                    markersize=4,
                    linewidth=1.2,
                    label=" → ".join(map(in_words, key)),
                )
            axes.set_title(", ".join(map(in_words, title)), fontsize=9)
            axes.set(xlabel="layer", ylabel=ylabel if isinstance(ylabel, str) else ylabel[title[0]])
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            if axes.get_ylabel().startswith("share"):
                axes.set_ylim(-0.03, 1.03)
            else:
                axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
        handles = {
            label: handle for axes in grid for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(handles.values(), handles.keys(), loc="outside right center", fontsize=8, frameon=False)
        figure.suptitle(
            f"{analysis.replace('_', ' ').capitalize()}, {model_label(model)} (bars: ±1 standard error)", fontsize=9
        )
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{analysis}_{model}.png"
        figure.savefig(path, dpi=110, metadata={"Software": None}, pil_kwargs={"optimize": True})
    return path
