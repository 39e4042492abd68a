"""Plots of runs, PNG and SVG: accuracy against tokens and TFLOPs, the d_thresh curve, the ablation's bars.

Over several budgets a method is a line of one colour and marker, whose filling and dashes tell the position ids; at
one budget it is a row of dots, coloured by the position ids.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

from nuwa.evaluation.runs import Run
from nuwa.report.figures.points import (
    METHOD_PARTS,
    Point,
    grouped,
    panel_label,
    points_of,
    pruned_points,
    row_label,
    score_axis,
    varied_points,
)
from nuwa.report.figures.style import (
    COLOURS,
    IDS,
    MARKERS,
    PLOT_SETTINGS,
    PlotsError,
    looks,
    plain_log_axis,
    require_package,
    write_figure,
)  # fmt: skip
from nuwa.report.labels import model_label

ASIDE, SPREAD = 1.6, 16  # points between methods at one place at most, and between the outermost
GIGA = 0.1  # TFLOPs below which an axis is in GFLOPs
PANELS = 4  # in a row
Drawing = Callable[[Any, Sequence[Point]], None]


def write_plots(runs: Iterable[Run], folder: Path) -> list[Path]:
    """Every plot that the runs have data for, one file per model and format.

    Raises:
        PlotsError: matplotlib is not installed, or no run has anything to plot.
    """
    matplotlib = require_package("matplotlib", "--plots")
    written = []
    with matplotlib.rc_context(PLOT_SETTINGS):
        for model, points in grouped(points_of(runs), lambda point: point.choices.model).items():
            whole = [point for point in points if point.choices.method == "none"]
            for name, chosen, draw in _plots(points):
                if chosen:
                    figure = _figure(chosen, whole, draw, f"{model_label(model)} (bars: 95 % intervals)")
                    written += write_figure(figure, folder / f"{name}_{model}")
    if not written:
        raise PlotsError("--plots: no finished run to plot")
    return written


def _plots(points: Sequence[Point]) -> list[tuple[str, list[Point], Drawing]]:
    """Names of plots, the points they show and how they are drawn."""
    pruned, has_lines = pruned_points(points)
    styles = _styles(pruned)
    several, one = (pruned, []) if has_lines else ([], pruned)
    return [
        ("accuracy_methods", one, _dots),
        ("accuracy_tokens", several, partial(_lines, styles=styles, cost="tokens")),
        ("accuracy_tflops", several, partial(_lines, styles=styles, cost="tflops")),
        ("d_thresh", varied_points(points, "d_thresh"), _distances),
        ("ablation", varied_points(points, *METHOD_PARTS), _bars),
    ]


def _styles(points: Sequence[Point]) -> dict[str, dict[str, Any]]:
    """How each method with its position ids is drawn, the same in all panels; those that reach most come first."""
    methods = sorted({point.choices.method for point in points})
    by_method = dict(zip(methods, looks(len(methods)), strict=True))
    lines = grouped(points, lambda point: point.method)
    order = sorted(lines, key=lambda name: (-mean(point.value for point in lines[name]), name))
    ids = {name: lines[name][0].choices for name in order}
    return {
        name: by_method[choices.method] | dict(zip(("fillstyle", "linestyle"), IDS[choices.strategy], strict=False))
        for name, choices in ids.items()
    }


def _figure(points: Sequence[Point], whole: Sequence[Point], draw: Drawing, caption: str) -> Any:
    """One panel per data set and metric, its unpruned run a dashed line, a legend beside them."""
    from matplotlib.figure import Figure

    panels = grouped(points, lambda point: point.panel)
    columns = min(len(panels), PANELS)
    rows = -(-len(panels) // columns)
    named = 0.36 * len(grouped(points, row_label(points))) if draw is _dots else 0.17 * len({p.method for p in points})
    figure = Figure(figsize=(4.2 * columns + 1.6, max(3.4, named + 1) * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    for axes, (panel, own) in zip(grid, panels.items(), strict=False):
        for point in whole:
            if point.panel == panel:
                mark = axes.axvline if draw is _dots else axes.axhline
                mark(point.value, color="#000000", linestyle="--", linewidth=1, label="unpruned")
        draw(axes, own)
        axes.set_title(panel_label(panel), fontsize=9)
        label, limits = score_axis(own, at_a_budget=draw is _dots)
        axes.set(**({"xlabel": label, "xlim": limits} if draw is _dots else {"ylabel": label, "ylim": limits}))
    entries = {label: handle for axes in grid for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(entries.values(), entries.keys(), loc="outside right center", fontsize=8, frameon=False)
    figure.suptitle(caption, fontsize=9)
    return figure


def _dots(axes: Any, own: Sequence[Point]) -> None:
    """One row per method, the best on top, and in it a dot for every position strategy."""
    row_of = row_label(own)
    best = grouped(own, row_of)
    order = sorted(best, key=lambda name: max(point.value for point in best[name]))
    rows = {name: row for row, name in enumerate(order)}
    strategies = grouped(own, lambda point: point.position)
    for number, (name, some) in enumerate(sorted(strategies.items())):
        aside = 0.6 * ((number + 0.5) / len(strategies) - 0.5)
        filling, _, colour = IDS[some[0].choices.strategy]
        axes.errorbar(
            [point.value for point in some],
            [rows[row_of(point)] - aside for point in some],
            xerr=list(zip(*(point.errors for point in some), strict=True)),
            **{"fmt": MARKERS[number % len(MARKERS)], "fillstyle": filling, "color": colour, "label": name},
            **{"capsize": 2, "elinewidth": 0.8, "markersize": 5},
        )
    axes.set_yticks(list(rows.values()), order)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.grid(axis="y", linewidth=0.3)


def _lines(axes: Any, own: Sequence[Point], styles: dict, cost: str) -> None:
    """One line per method over what it cost."""
    unit = 1000 if cost == "tflops" and max(point.tflops for point in own) < GIGA else 1
    lines = grouped(own, lambda point: point.method)
    step = min(ASIDE, SPREAD / len(styles)) if cost == "tokens" else 0.0
    for place, (method, style) in enumerate(styles.items()):
        if method in lines:
            line = sorted(lines[method], key=lambda point: getattr(point, cost))
            where = [unit * getattr(point, cost) for point in line]
            _errorbar(axes, where, line, step * (place - (len(styles) - 1) / 2), label=method, **style)
    if cost == "tflops":
        plain_log_axis(axes)
        axes.set_xlabel(f"LLM {'TFLOPs' if unit == 1 else 'GFLOPs'} on visual tokens")
    else:
        ticks = sorted({round(point.tokens) for point in own})
        room = max(0.12 * (ticks[-1] - ticks[0]), 0.1 * ticks[0])
        axes.set_xticks(ticks)
        axes.set_xlim(ticks[0] - room, ticks[-1] + room)
        axes.set_xlabel("tokens entering a layer, mean")


def _distances(axes: Any, own: Sequence[Point]) -> None:
    """Accuracy over the cohesion distance."""
    lines = _by_budget(own)
    for (name, line), look in zip(lines.items(), looks(len(lines)), strict=True):
        line = sorted(line, key=lambda point: point.choices.options["d_thresh"])
        _errorbar(axes, [point.choices.options["d_thresh"] for point in line], line, label=name, **look)
    axes.set_xlabel("d_thresh, squared grid cells")


def _errorbar(axes: Any, where: Sequence[float], line: Sequence[Point], aside: float = 0.0, **style: Any) -> None:
    """Points with their intervals, drawn ``aside`` points beside their place."""
    from matplotlib.transforms import ScaledTranslation

    if aside:
        style["transform"] = axes.transData + ScaledTranslation(aside / 72, 0, axes.figure.dpi_scale_trans)
    values, errors = [point.value for point in line], list(zip(*(point.errors for point in line), strict=True))
    axes.errorbar(where, values, errors, capsize=2, linewidth=1.2, elinewidth=0.8, markersize=5, **style)


def _by_budget(points: Sequence[Point]) -> dict[str, list[Point]]:
    return grouped(points, lambda point: f"{point.method}, {point.choices.budget}")


def _bars(axes: Any, own: Sequence[Point]) -> None:
    """One bar per combination of parts, a random second stage hatched beside the chosen one."""
    lines = _by_budget(own)
    names = {(False, False): "neither", (False, True): "pillars", (True, False): "regions", (True, True): "both"}
    places = {parts: place for place, parts in enumerate(names)}
    width = 0.8 / (2 * len(lines))
    for number, ((name, line), colour) in enumerate(zip(lines.items(), itertools.cycle(COLOURS), strict=False)):
        for at_random, some in grouped(line, lambda point: point.values("random")[0]).items():
            shift = (2 * number + at_random + 0.5) * width - 0.4
            axes.bar(
                [places[point.values("region", "pillar")] + shift for point in some],
                [point.value for point in some],
                width,
                yerr=list(zip(*(point.errors for point in some), strict=True)),
                color=colour,
                alpha=0.55 if at_random else 1.0,
                hatch="//" if at_random else None,
                error_kw={"capsize": 2, "elinewidth": 1},
                label=name + (", stage 2 random" if at_random else ""),
            )
    axes.set_xticks(list(places.values()), list(names.values()))
