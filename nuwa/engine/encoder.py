"""What stands in place of ``get_image_features`` in a session: the tower, and behind it what a method decides."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

from nuwa.engine.about import About, content_ids
from nuwa.engine.call import EncodedImages, Rules, current_call
from nuwa.engine.decision_cache import DecisionCache
from nuwa.engine.tower import run_tower
from nuwa.engine.vision import plan_images
from nuwa.models.base import Family

_ENCODED = "_nuwa_encoded"
_encodes: ContextVar[bool] = ContextVar("encodes", default=False)


def pruning_encoder(rules: Rules, about: About, family: Family, running: threading.Lock) -> Callable[..., Any]:
    """The encoder of a family for a session; ``running`` is held while one of the session's encodes.

    generate() reads its signature to know which inputs belong to the images.
    """
    original = family.encode_images
    signature = inspect.signature(original)

    @functools.wraps(original)
    def get_features(*args: Any, **kwargs: Any) -> Any:
        if _encodes.get():  # Qwen3-VL encodes videos by its method for pictures
            return original(*args, **kwargs)
        token = _encodes.set(True)
        try:
            with running:  # what is read off tower and projector has to be this call's
                output, encoded = _encode(rules, about, family, original, signature.bind(*args, **kwargs).arguments)
        finally:
            _encodes.reset(token)
        call = current_call.get()
        if call is not None:
            call.images[family.kind] = encoded
        output[_ENCODED] = encoded  # an entry, no attribute: what moves outputs to a device makes new ones
        return output

    return get_features


def encoded_in(output: Mapping[str, Any]) -> EncodedImages | None:
    """What was decided of the images of an encoder's output; None: no session's encoder made it."""
    return output.get(_ENCODED)


def _encode(
    rules: Rules, about: About, family: Family, original: Callable[..., Any], arguments: dict[str, Any]
) -> tuple[Any, EncodedImages]:
    """The output of the original encoder with the features that a method made, and what it decided."""
    arguments, pruner = family.prepare(arguments), rules.pruner
    smaller = pruner.image_grid(family.grid, family.shape.layers)
    taps = list(pruner.taps.values())
    seen = run_tower(family, original, arguments, taps, smaller, rules.share, rules.cache)
    images, output, planes = seen.images, seen.output, seen.planes
    layouts, count = family.layouts(images, arguments), len(images)
    about.check(count, exact=len(rules.kinds) == 1)
    last = family.kind == "video"  # of a call's images these come last
    names, questions = (given and (given[-count:] if last else given[:count]) for given in about.told())
    names = content_ids(family.pixels(arguments)) if names is None else names
    seeing = seen.recording, smaller, questions, rules.coordinates, planes if rules.merges_planes else ()
    decisions = DecisionCache(rules.cache, seen.key)
    plans = plan_images(pruner, family, images, layouts, names, *seeing, decisions=decisions)
    output.pooler_output = family.join(images, output.pooler_output)
    if planes:
        output[family.planes_at] = planes
    return output, EncodedImages(plans)
