"""Nüwa: a workbench for pruning vision tokens in vision-language models.

pruner = nuwa.load_pruner("nuwa", budget=64, d_thresh=280)
with nuwa.prune(model, pruner, position="pesp") as session:
    out = model.generate(**inputs, max_new_tokens=32)
session.report()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nuwa import pruners
from nuwa.options import check_options
from nuwa.pruners.base import Pruner
from nuwa.pruners.catalogue import find_method
from nuwa.pruning.budget import Budget

if TYPE_CHECKING:
    from torch import nn

    from nuwa.engine.feature_cache import FeatureCache
    from nuwa.engine.session import PruningSession
    from nuwa.pruning.coordinates import Coordinates

__version__ = "0.1.0"
__all__ = ["__version__", "detach", "load_pruner", "prune", "pruners"]


def load_pruner(name: str, budget: float | Budget | None = None, **options: Any) -> Pruner:
    """Make a pruning method by its name in ``conf/pruner``, with the options of its file there.

    Args:
        name: e.g. ``nuwa`` or ``visionzip``.
        budget: average visual tokens per LLM layer, or a `Budget`; None for the full image.
        options: fields of the method.

    Raises:
        ValueError: an unknown method, an unknown option or an impossible value; the message names what there is.
    """
    kind, defaults = find_method(name)
    spent = budget if isinstance(budget, Budget) else Budget(average=budget)
    return kind(budget=spent, **check_options(kind, defaults | options, "pruner", provided=("budget",)))


def prune(
    model: nn.Module,
    pruner: Pruner,
    position: str = "native",
    share: bool = False,
    cache: FeatureCache | None = None,
    calibration: str = "native",
    coordinates: Coordinates | None = None,
    deepstack: str = "merged",
) -> PruningSession:
    """A session inside which ``model`` prunes its vision tokens: ``with nuwa.prune(model, pruner) as session: ...``.

    Args:
        model: an unmodified transformers model of a supported family (`nuwa.models`).
        pruner: a method, from `load_pruner` or of your own.
        position: the strategy for position ids: ``perc`` renumbers, ``pesp`` keeps the original ids, ``rpme``
            stretches them over the image's span, ``median`` puts a merged token at the median of its members' ids,
            ``native`` does what the method's authors do.
        share: run what neighbouring rows have in common once: the vision pass of equal images and the prompt up to the
            end of its images, as far as the first LLM stage. Only the logits behind the images are then computed. A
            model in training mode shares the vision pass alone.
        cache: a folder of vision features that calls and processes share, of a tower whose weights do not change.
        calibration: ``size`` lets a merged token weigh in attention as many tokens as it stands for, ``restore`` gives
            distant tokens back what rotary embeddings take, too. Both take sdpa or eager attention, and let ``share``
            share the vision pass alone. ``native`` is none, but for RESTORE.
        coordinates: a share of what every stage keeps goes to tokens that stay because of where they stand.
        deepstack: what tokens that a method makes of several have of Qwen3-VL's deepstack planes: their rows ``merged``
            alike, or the ``kept`` rows' own.

    Raises:
        ValueError: an unsupported model, an unknown choice, or a method that does not fit the model.
    """
    from nuwa.engine.session import PruningSession  # transformers takes seconds to import

    return PruningSession(model, pruner, position, share, cache, calibration, coordinates, deepstack)


def detach(model: nn.Module) -> None:
    """End the session that is open on a model, as leaving its block does: for a session that is lost.

    Without a session nothing happens.
    """
    from nuwa.engine.session import end_session

    end_session(model)
