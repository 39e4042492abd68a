"""What methods retain of each ability: a panel for each, a dot with its interval for each method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import Any

from nuwa.report.figures.style import COLOURS, PLOT_SETTINGS, require_package, write_figure


@dataclass(frozen=True)
class Kept:
    """What is retained of an ability over ``samples``, with its 95 % interval; nan where nothing is right unpruned."""

    samples: int
    value: float = nan
    low: float = nan
    high: float = nan

    def __str__(self) -> str:
        if self.value != self.value:
            return "none right unpruned"
        return f"{self.value:.1%} [{self.low:.1%}, {self.high:.1%}]"


def write_profile(rows: Mapping[str, Mapping[str, Kept]], folder: Path) -> list[Path]:
    """The figure as PNG and SVG; ``rows`` are what methods keep by ability.

    Raises:
        nuwa.report.figures.style.PlotsError: matplotlib is not installed.
    """
    matplotlib = require_package("matplotlib", "--plot")
    with matplotlib.rc_context(PLOT_SETTINGS):
        return write_figure(_figure(rows), folder / "profile")


def _figure(rows: Mapping[str, Mapping[str, Kept]]) -> Any:
    from matplotlib.figure import Figure

    abilities = list(dict.fromkeys(ability for kept in rows.values() for ability in kept))
    figure = Figure(figsize=(2.3 * len(abilities) + 2.2, 0.34 * len(rows) + 1.2), layout="constrained")
    panels = figure.subplots(1, len(abilities), sharex=True, sharey=True, squeeze=False)[0]
    for axes, ability in zip(panels, abilities, strict=True):
        axes.axvline(100, color="#000000", linestyle="--", linewidth=1)
        shown = [(-place, kept[ability]) for place, kept in enumerate(rows.values()) if ability in kept]
        values = [100 * one.value for _, one in shown]
        spread = [[100 * (one.value - one.low) for _, one in shown], [100 * (one.high - one.value) for _, one in shown]]
        axes.errorbar(
            values, [place for place, _ in shown], xerr=spread, fmt="o", color=COLOURS[0], capsize=2, markersize=4
        )
        axes.set_title(ability, fontsize=9)
        axes.grid(axis="y", linewidth=0.3)
    panels[0].set_yticks([-place for place in range(len(rows))], list(rows))
    figure.supxlabel("retained of the unpruned model, percent (bars: 95 %)", fontsize=9)
    return figure
