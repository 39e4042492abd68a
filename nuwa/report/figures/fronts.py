"""What pruned models keep against what they cost, with the front of those that no other one beats."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nuwa.evaluation.frontier import front
from nuwa.evaluation.statistics import interval
from nuwa.report.figures.points import grouped, panel_label
from nuwa.report.figures.style import PLOT_SETTINGS, looks, plain_log_axis, require_package, write_figure
from nuwa.report.labels import method_label, model_label, position_label

if TYPE_CHECKING:
    from nuwa.report.choose import Timed

_ASIDE, _WIDE = 0.01, 4
"""Between methods that keep as many tokens, as a share of the axis; the span of costs from which it is logarithmic."""


def write_front(options: Sequence[Timed], asked: Namespace) -> list[Path]:
    """The plot as PNG and SVG in the folder ``asked.plot``.

    Raises:
        nuwa.report.figures.style.PlotsError: matplotlib is not installed.
    """
    matplotlib = require_package("matplotlib", "--plot")
    with matplotlib.rc_context(PLOT_SETTINGS):
        name = re.sub(r"[^\w@.-]+", "_", f"front_{asked.by}_{asked.title}_{asked.metric}")
        return write_figure(_figure(options, asked), asked.plot / name)


def _figure(options: Sequence[Timed], asked: Namespace) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    best, whole = front(options), options[-1]
    axes.step([one.cost for one in best], [100 * one.keeps for one in best], where="post", color="#999999", linewidth=1)
    axes.axhline(100 * (1 - asked.loss), color="#000000", linestyle=":", linewidth=1, label=f"{asked.loss:.1%} lost")
    axes.plot([whole.cost], [100 * whole.keeps], "*", color="#000000", markersize=9, label="unpruned")
    methods = grouped([one for one in options if one.run.method != "none"], lambda one: one.run.method)
    order = sorted(methods, key=lambda method: -max(one.keeps for one in methods[method]))
    span = whole.cost / best[0].cost
    apart = span**_ASIDE if asked.by == "tokens" else 1.0
    for place, (method, look) in enumerate(zip(order, looks(len(methods)), strict=True)):
        own = methods[method]
        spread = [[100 * abs(one.keeps - end) for end in interval(one.draws).values()] for one in own]
        axes.errorbar(
            [one.cost * apart ** (place - (len(order) - 1) / 2) for one in own],
            [100 * one.keeps for one in own],
            list(zip(*spread, strict=True)),
            linestyle="none", capsize=2, elinewidth=0.6, markersize=5, label=method_label(method), **look,
        )  # fmt: skip
    for one in best:
        if one.run.method != "none":
            label = f"{one.run.choices.budget.removesuffix(' tokens')} {position_label(one.run.position)}"
            axes.annotate(label, (one.cost, 100 * one.keeps), (4, -10), textcoords="offset points", fontsize=7)
    if span > _WIDE:
        plain_log_axis(axes)
    aside = "; equal ones side by side" if asked.by == "tokens" else ""
    axes.set_xlabel(f"{asked.by}, relative to the unpruned model{aside}")
    axes.set_ylabel("kept, percent (bars: 95 % intervals)")
    told = asked.title.split(", ")[2:]  # what else tells this unpruned run from others
    panel = panel_label((whole.run.dataset, asked.metric))
    axes.set_title(", ".join([model_label(whole.run.model), *told, panel]), fontsize=9)
    figure.legend(loc="outside right center", fontsize=8, frameon=False)
    return figure
