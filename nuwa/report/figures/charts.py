"""Interactive charts for dashboards: what each method reaches over what it costs, or beside the others."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from statistics import mean
from typing import Any

from nuwa.evaluation.runs import Run
from nuwa.report.figures.points import Point, grouped, panel_label, points_of, pruned_points, row_label, score_axis
from nuwa.report.figures.style import IDS, looks, require_package
from nuwa.report.labels import model_label

_COSTS = {
    "tokens": "visual tokens entering a layer, mean",
    "tflops": "LLM TFLOPs on visual tokens",
    "seconds": "seconds per sample, as measured",
}
"""What may stand on the axis below: a number of a `Point`, and what it is called."""
_DASHES = {"pesp": "solid", "rpme": "dash", "perc": "dot", "rpme_1d": "dashdot", "median": "longdash"}
_SYMBOLS = {
    "o": "circle", "s": "square", "^": "triangle-up", "D": "diamond", "v": "triangle-down", "P": "cross", "X": "x",
    "<": "triangle-left", ">": "triangle-right", "*": "star",
}  # fmt: skip
_GAP = 110  # pixels between panels
_WHOLE = {"color": "#000000", "marker": "*"}


def charts(runs: Iterable[Run]) -> dict[str, Any]:
    """Plotly figures by name: ``methods_<model>`` at one budget, ``tokens_<model>`` over several, and other costs.

    Raises:
        nuwa.report.figures.style.PlotsError: plotly is not installed.
    """
    require_package("plotly", "a chart to point at")
    figures = {}
    for model, points in grouped(points_of(runs), lambda point: point.choices.model).items():
        pruned, has_lines = pruned_points(points)
        whole = [point for point in points if point.choices.method == "none"]
        if pruned and not has_lines:
            figures[f"methods_{model}"] = _by_method(model, pruned)
        for cost in _COSTS:
            known = [point for point in [*whole, *pruned] if getattr(point, cost) is not None]
            if pruned and known and (has_lines or cost != "tokens"):
                figures[f"{cost}_{model}"] = _by_cost(model, known, cost)
    return figures


def _by_cost(model: str, points: Sequence[Point], cost: str) -> Any:
    """A line for every method with its position ids, those that reach most first."""
    lines = grouped(points, lambda point: "Unpruned" if point.choices.method == "none" else point.method)
    methods = sorted({point.choices.method for point in points} - {"none"})
    styles = {"none": _WHOLE} | dict(zip(methods, looks(len(methods)), strict=True))
    traces = []
    for name in sorted(lines, key=lambda name: -mean(point.value for point in lines[name])):
        choices = lines[name][0].choices
        look = styles[choices.method]
        style = {
            "mode": "lines+markers",
            "line": {"color": look["color"], "dash": _DASHES.get(choices.strategy, "longdashdot")},
            "marker": {"symbol": _SYMBOLS[look["marker"]], "size": 8},
        }
        traces.append((name, sorted(lines[name], key=lambda point: getattr(point, cost)), style))
    figure = _panels(model, points, traces, lambda point: (getattr(point, cost), point.value), "y")
    return figure.update_xaxes(title_text=_COSTS[cost], row=len({point.panel for point in points}))


def _by_method(model: str, points: Sequence[Point]) -> Any:
    """A row for every method, the best on top, and in it a dot for every position strategy."""
    row_of = row_label(points)
    best = grouped(points, row_of)
    order = sorted(best, key=lambda name: max(point.value for point in best[name]))
    strategies = grouped(points, lambda point: point.position)
    traces = []
    for (name, own), symbol in zip(strategies.items(), itertools.cycle(_SYMBOLS.values()), strict=False):
        look = {"color": IDS[own[0].choices.strategy][2], "symbol": symbol, "size": 8}
        traces.append((name, own, {"mode": "markers", "marker": look}))
    figure = _panels(model, points, traces, lambda point: (point.value, row_of(point)), "x")
    return figure.update_yaxes(categoryorder="array", categoryarray=order, dtick=1)


def _panels(model: str, points: Sequence[Point], traces: Sequence, place: Any, scores_on: str) -> Any:
    """A panel for every data set and metric; what the pointer is on says which run it is."""
    from plotly.graph_objects import Scatter
    from plotly.subplots import make_subplots

    panels = list(dict.fromkeys(point.panel for point in points))
    rows = 300 if scores_on == "y" else 80 + 22 * len(grouped(points, row_label(points)))
    height = 140 + (rows + _GAP) * len(panels)
    figure = make_subplots(len(panels), 1, subplot_titles=[*map(panel_label, panels)], vertical_spacing=_GAP / height)
    for row, panel in enumerate(panels, 1):
        for name, own, style in traces:
            shown = [point for point in own if point.panel == panel]
            places = [place(point) for point in shown]
            trace = Scatter(
                name=name,
                legendgroup=name,
                showlegend=row == 1,
                x=[x for x, _ in places],
                y=[y for _, y in places],
                text=[point.choices.title for point in shown],
                hovertemplate="%{text}<br>%{x}, %{y}<extra></extra>",
                **{f"error_{scores_on}": _bars(shown)},
                **style,
            )
            figure.add_trace(trace, row=row, col=1)
        label, limits = score_axis([point for point in points if point.panel == panel], at_a_budget=scores_on == "x")
        figure.update_layout({f"{scores_on}axis{row if row > 1 else ''}": {"title": label, "range": limits}})
    title = f"{model_label(model)} (bars: 95 % intervals)"
    return figure.update_layout(title=title, height=height, template="plotly_white")


def _bars(points: Sequence[Point]) -> Mapping[str, Any]:
    below, above = zip(*(point.errors for point in points), strict=True) if points else ((), ())
    return {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "thickness": 1}
