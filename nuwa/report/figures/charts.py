"""Interactive charts for dashboards: what each method reaches over what it costs, or beside the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import mean
from typing import Any

from nuwa.evaluation.runs import Run
from nuwa.report.figures.plots import looks, require
from nuwa.report.figures.points import Point, grouped, points_of

COSTS = {
    "tokens": "visual tokens entering a layer, mean",
    "tflops": "LLM TFLOPs on visual tokens",
    "seconds": "seconds per sample, as measured",
}
"""What may stand on the axis below: a number of a `Point`, and what it is called."""
_DASHES = {"pesp": "solid", "rpme": "dash", "perc": "dot", "rpme_1d": "dashdot", "median": "longdash"}
_SYMBOLS = dict(zip("os^DvPX<>", ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x",
                                  "triangle-left", "triangle-right"), strict=True))  # fmt: skip


def charts(runs: Iterable[Run]) -> dict[str, Any]:
    """Plotly figures by name, ``tokens_<model>`` and so on, for every cost in which the runs of a model differ.

    Raises:
        nuwa.report.figures.plots.PlotsError: plotly is not installed.
    """
    require("plotly", "W&B's interactive charts")
    figures = {}
    for model, points in grouped(points_of(runs), lambda point: point.choices.model).items():
        for cost, title in COSTS.items():
            known = [point for point in points if getattr(point, cost) is not None]
            if len({getattr(point, cost) for point in known}) > 1:
                figures[f"{cost}_{model}"] = _figure(model, known, cost, title)
    return figures


def _figure(model: str, points: Sequence[Point], cost: str, title: str) -> Any:
    """A panel for every data set and metric, a line for every method with its position ids, the best one first."""
    from plotly.subplots import make_subplots

    panels = grouped(points, lambda point: point.panel)
    figure = make_subplots(rows=len(panels), cols=1, subplot_titles=[f"{name}, {metric}" for name, metric in panels])
    lines = grouped(points, lambda point: "unpruned" if point.choices.method == "none" else point.method)
    order = sorted(lines, key=lambda name: -mean(point.value for point in lines[name]))
    methods = sorted({lines[name][0].choices.method for name in order})
    styles = dict(zip(methods, looks(len(methods)), strict=True))
    for row, panel in enumerate(panels, 1):
        for name in order:
            own = sorted((p for p in lines[name] if p.panel == panel), key=lambda point: getattr(point, cost))
            if own:
                figure.add_trace(_line(name, own, cost, styles[own[0].choices.method], shown=row == 1), row=row, col=1)
        figure.update_yaxes(title_text="percent" if max(p.value for p in panels[panel]) <= 100 else "points", row=row)
    figure.update_xaxes(title_text=title, type="linear" if cost == "tokens" else "log")
    return figure.update_layout(title=f"{model}, bars: 95 %", height=120 + 330 * len(panels), template="plotly_white")


def _line(name: str, own: Sequence[Point], cost: str, style: Mapping[str, Any], shown: bool) -> Any:
    """A line with its intervals; what the pointer is on says which run it is."""
    from plotly.graph_objects import Scatter

    below, above = zip(*(point.errors for point in own), strict=True)
    return Scatter(
        name=name,
        legendgroup=name,
        showlegend=shown,
        x=[getattr(point, cost) for point in own],
        y=[point.value for point in own],
        error_y={"type": "data", "symmetric": False, "array": above, "arrayminus": below, "thickness": 1},
        mode="lines+markers",
        line={"color": style["color"], "dash": _DASHES.get(own[0].choices.strategy, "longdashdot")},
        marker={"symbol": _SYMBOLS[style["marker"]], "size": 8},
        text=[point.choices.title for point in own],
        hovertemplate="%{text}<br>%{y:.1f} at %{x:.4g}<extra></extra>",
    )
