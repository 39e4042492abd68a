"""What is to be known of one pruning method, for tables and pages.

The facts stand next to each method (`nuwa.pruners.base.MethodInfo`), the counts are what it makes of a budget.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from nuwa.pruners.base import MethodInfo, MisfitError, Pruner
from nuwa.pruners.catalogue import find_method
from nuwa.pruners.tower import Tower
from nuwa.pruners.videos import VideoPruner
from nuwa.pruning.budget import Budget, BudgetError
from nuwa.pruning.schedules import Schedule
from nuwa.report.tables.formats import TextRow


@dataclass(frozen=True)
class Setting:
    """A model with its tokens, its layers and its budgets: averages, or shares."""

    name: str
    model: str
    tower: Tower
    n_tokens: int
    layers: int
    budgets: tuple[int, ...] | tuple[float, ...]


BUDGET_SETTINGS = (
    Setting("1.5", "LLaVA-1.5-7B", Tower("clip_vision_model", {}, True, (24, 24)), 576, 32, (192, 128, 64)),
    Setting("NeXT", "LLaVA-NeXT-7B", Tower("clip_vision_model", {}, True), 2880, 32, (640, 320, 160)),
    Setting("Qwen", "Qwen2.5-VL-7B", Tower("qwen2_5_vl", {}), 1000, 28, (0.75, 0.5, 0.25)),
)
STAGES = {(True, True): "both", (True, False): "vision", (False, True): "LLM", (False, False): "none"}
METHOD_GROUPS = {
    "vision": "Before the LLM",
    "LLM": "Inside the LLM",
    "both": "Before and inside the LLM",
    "videos": "For videos",
    "baselines": "Baselines",
}
"""Kinds of methods, and what a list calls them."""


def method_facts(name: str) -> TextRow:
    """Everything that a table may say about a method, by column."""
    kind, options = find_method(name)
    info, pruner = kind.info, kind(**options)
    yes = {True: "yes", False: ""}
    return {
        "method": f"`{name}`",
        "stage": STAGES[pruner.prunes_vision, pruner.prunes_llm],
        "signal": info.signal,
        "year": publication_year(info),
        "paper": re.sub(r"^arXiv (.*)", r"[\g<0>](https://arxiv.org/abs/\1)", info.paper),
        "code": info.source,
        "merges": yes[info.merges],
        "text-aware": yes[info.text_aware],
        "needs CLS": yes[info.needs_cls],
        "native positions": kind.native_position,
        "flash-compatible": _flash(kind),
        "what merges": info.merging or ("yes" if info.merges else "nothing"),
        "budget": info.counts,
    }


def publication_year(info: MethodInfo) -> str:
    """The year of a venue, or of a number of arXiv; empty for methods without a paper."""
    found = re.search(r"arXiv (\d\d)\d\d\.|(20\d\d)", info.paper)
    return "" if found is None else found[2] or f"20{found[1]}"


def group_of(name: str) -> str:
    """The key of ``METHOD_GROUPS`` under which a list has a method."""
    kind, options = find_method(name)
    if issubclass(kind, VideoPruner):
        return "videos"
    pruner = kind(**options)
    published = kind.info.paper or pruner.prunes_llm
    return STAGES[pruner.prunes_vision, pruner.prunes_llm] if published else "baselines"


def _flash(kind: type[Pruner]) -> str:
    """Whether a method runs with FlashAttention."""
    if kind.native_calibration != "none":
        return "with calibration=none"
    return "yes, rows recomputed" if "attention" in kind.info.signal.lower() else "yes"


def budget_counts(name: str, setting: Setting, amount: float) -> tuple[str, str]:
    """What a method makes of a budget, and why it makes nothing of it."""
    kind, options = find_method(name)
    budget = Budget(average=amount) if amount > 1 else Budget(ratio=amount)
    pruner = kind(budget=budget, **options)
    try:
        pruner.check_tower(setting.tower)
        schedule = pruner.schedule(setting.n_tokens, setting.layers)
        return shown_counts(schedule, setting.n_tokens, in_percent=amount < 1), ""
    except (BudgetError, MisfitError) as error:
        return "", str(error)


def shown_budget(amount: float) -> str:
    """An average as it is, a share in percent."""
    return str(amount) if amount > 1 else format(amount, ".0%")


def shown_counts(schedule: Schedule, n_tokens: int, in_percent: bool) -> str:
    """Counts, or percent of the image's tokens; nothing of what enters if that is all."""
    stages = [
        ("", schedule.vision),
        *((f" @{layer}", count) for layer, count in schedule.stages(schedule.vision).items()),
    ]
    if schedule.vision == n_tokens and schedule.llm:
        del stages[0]
    return ", ".join((f"{100 * count / n_tokens:.3g}" if in_percent else str(count)) + at for at, count in stages)
