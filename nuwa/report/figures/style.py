"""How figures look: colours, markers, what tells position ids apart; and how they are written.

The first seven colours are Okabe and Ito's, which stay apart with any kind of colour vision. The others were added one
by one, each as far as possible from all before it (in OKLab, for normal and for red-green blind eyes).
"""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

COLOURS = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#69001E", "#3C0096", "#D21EFF",
    "#5A5A00", "#6900FF", "#87E1A5", "#B40F78", "#E1B4FF", "#003C5A", "#693C78", "#002DD2", "#4BF04B", "#C30F1E",
    "#FF4B69", "#B4B4B4", "#7887B4", "#8700A5", "#785AE1", "#FF8778", "#4B4B4B", "#B469E1", "#964B4B", "#965AA5",
    "#A5A50F",
)  # fmt: skip
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
IDS = {
    "pesp": ("full", "-", "#0072B2"), "rpme": ("none", "--", "#009E73"), "perc": ("left", ":", "#D55E00"),
    "rpme_1d": ("bottom", (0, (4, 1, 1, 1)), "#56B4E9"), "median": ("top", (0, (1, 2)), "#E69F00"),
    "native": ("right", "-.", "#000000"),
}  # fmt: skip
"""Filling of the marker, dashes of the line and colour of the dot, by position strategy; the last if it is unknown."""
PLOT_SETTINGS: dict[Any, Any] = {
    "svg.hashsalt": "nuwa", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False,
}  # fmt: skip


class PlotsError(ValueError):
    """Plots cannot be made."""


def require_package(package: str, what: str) -> Any:
    """A package of the extra ``plots``, or a PlotsError that says how to install it for ``what``."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise PlotsError(f'{what} needs {package}: pip install -c constraints.txt -e ".[plots]"') from error


def looks(count: int) -> Iterator[dict[str, Any]]:
    """Colours with markers; no pair comes twice, and no colour among the first 31."""
    pairs = zip(itertools.cycle(COLOURS), itertools.cycle(MARKERS), strict=False)
    return ({"color": colour, "marker": marker} for colour, marker in itertools.islice(pairs, count))


def plain_log_axis(axes: Any) -> None:
    """Make the horizontal axis logarithmic, with plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format(value, "g")))
    axes.xaxis.set_minor_locator(NullLocator())


def write_figure(figure: Any, stem: Path) -> list[Path]:
    """PNG and SVG; the same numbers give the same bytes."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = [stem.with_name(f"{stem.name}.{form}") for form in ("png", "svg")]
    for path, metadata in zip(paths, ({"Software": None}, {"Date": None}), strict=True):
        figure.savefig(path, dpi=150, metadata=metadata)
    return paths
