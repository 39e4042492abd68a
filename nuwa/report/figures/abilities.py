"""What methods retain of each ability: a panel for each, a dot with its interval for each method, and for its parts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import Any

from nuwa.report.figures.points import grouped
from nuwa.report.figures.style import PLOT_SETTINGS, looks, require_package, write_figure


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


Asked = tuple[str, str]
"""An ability, and a part of it; "" is the whole."""


def asked_of(rows: Iterable[Mapping[Asked, Kept]]) -> list[Asked]:
    """What any row has, abilities one after the other, each before its parts."""
    known = list(dict.fromkeys(asked for row in rows for asked in row))
    abilities = [ability for ability, part in known if not part]
    return sorted(known, key=lambda asked: (abilities.index(asked[0]), asked[1] != ""))


def write_profile(rows: Mapping[str, Mapping[Asked, Kept]], folder: Path) -> list[Path]:
    """The figure as PNG and SVG; ``rows`` are what methods keep of abilities and their parts.

    Raises:
        nuwa.report.figures.style.PlotsError: matplotlib is not installed.
    """
    matplotlib = require_package("matplotlib", "--plot")
    with matplotlib.rc_context(PLOT_SETTINGS):
        return write_figure(_figure(rows), folder / "profile")


def _figure(rows: Mapping[str, Mapping[Asked, Kept]]) -> Any:
    from matplotlib.figure import Figure

    panels = grouped(asked_of(rows.values()), lambda asked: asked[0])
    most = max(map(len, panels.values()))
    height = (0.27 + 0.07 * most) * len(rows) + 1.2 + 0.2 * (most > 1) * most
    figure = Figure(figsize=(2.3 * len(panels) + 2.2, height), layout="constrained")
    drawn = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (ability, asked) in zip(drawn, panels.items(), strict=True):
        axes.axvline(100, color="#000000", linestyle="--", linewidth=1)
        for number, (one, look) in enumerate(zip(asked, looks(len(asked)), strict=True)):
            aside = 0.7 * ((number + 0.5) / len(asked) - 0.5)
            _dots(
                axes, {place + aside: kept[one] for place, kept in enumerate(rows.values()) if one in kept}, one, look
            )
        axes.set_title(ability, fontsize=9)
        axes.grid(axis="y", linewidth=0.3)
        if len(asked) > 1:
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0), borderaxespad=2.5, fontsize=8, frameon=False)
    drawn[0].set_yticks(range(len(rows)), list(rows))
    drawn[0].set_ylim(len(rows) - 0.4, -0.6)
    figure.supxlabel("retained of the unpruned model, percent (bars: 95 %)", fontsize=9)
    return figure


def _dots(axes: Any, shown: Mapping[float, Kept], asked: Asked, look: Mapping[str, Any]) -> None:
    """A dot with its interval at each place, larger for a whole ability than for its parts."""
    values = [100 * kept.value for kept in shown.values()]
    spread = [[100 * (kept.value - kept.low), 100 * (kept.high - kept.value)] for kept in shown.values()]
    axes.errorbar(
        values,
        [*shown],
        xerr=[*zip(*spread, strict=True)],
        **{"linestyle": "none", "capsize": 2, "elinewidth": 0.8, "markersize": 3 if asked[1] else 5, **look},
        label=asked[1] or "all",
    )
