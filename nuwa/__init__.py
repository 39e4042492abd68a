"""Nüwa: a workbench for pruning vision tokens in vision-language models.

pruner = nuwa.load_pruner("nuwa", budget=64, d_thresh=280)
with nuwa.prune(model, pruner, position="pesp") as session:
    out = model.generate(**inputs, max_new_tokens=32)
session.report()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nuwa import pruners
from nuwa.pruners.catalogue import make_method
from nuwa.pruning.budget import Budget

if TYPE_CHECKING:
    from torch import nn

    from nuwa.engine.session import PruningSession

__version__ = "0.1.0"
__all__ = ["__version__", "load_pruner", "prune", "pruners"]


def load_pruner(name: str, budget: float | Budget | None = None, **options: Any) -> pruners.Pruner:
    """Make a pruning method by its name in ``conf/pruner``, with the options of its file there.

    Args:
        name: e.g. ``nuwa`` or ``visionzip``.
        budget: average visual tokens per LLM layer, or a `Budget`; None for the full image.
        options: fields of the method.

    Raises:
        ValueError: an unknown method or an impossible option.
    """
    spent = budget if isinstance(budget, Budget) else Budget(average=budget)
    return make_method(name, budget=spent, **options)


def prune(model: nn.Module, pruner: pruners.Pruner, position: str = "native", **options: Any) -> PruningSession:
    """A session inside which ``model`` prunes its vision tokens; see `nuwa.engine.session.PruningSession`."""
    from nuwa.engine.session import PruningSession  # transformers takes seconds to import

    return PruningSession(model, pruner, position, **options)
