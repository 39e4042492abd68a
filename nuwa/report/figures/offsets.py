"""The plot of where predicted boxes lie around the true ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nuwa.report.figures.style import COLOURS, PLOT_SETTINGS

Moves = Sequence[tuple[float, float]]
"""Predicted minus true centres (dx, dy) in fractions of the picture; nan where an answer holds no box."""


def plot_offsets(panels: Sequence[tuple[str, Moves, Moves]], path: Path) -> None:
    """One panel for each run: its title, the moves of right and of wrong answers; the mean as a cross."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(PLOT_SETTINGS):
        figure = Figure(figsize=(4 * len(panels), 4), layout="constrained")
        grid = figure.subplots(1, len(panels), sharex=True, sharey=True)
        for axes, (title, right, wrong) in zip(grid, panels, strict=True):
            for moves, colour, marker, name in ((right, COLOURS[0], "o", "right"), (wrong, COLOURS[5], "x", "wrong")):
                x, y = zip(*moves, strict=True) if moves else ((), ())
                axes.scatter(x, y, c=colour, marker=marker, s=18, linewidths=1, label=name)
            axes.scatter(*np.nanmean([*right, *wrong], 0), c="black", marker="+", s=160, label="mean")
            axes.axhline(0, color="#999999", linewidth=0.6)
            axes.axvline(0, color="#999999", linewidth=0.6)
            axes.set(title=title, xlabel="dx, below 0: too far left", ylabel="dy, below 0: too far up", aspect="equal")
        grid[-1].invert_yaxis()
        grid[-1].legend(fontsize=8, frameon=False)
        figure.savefig(path, dpi=110, metadata={"Software": None})
