"""What stands in place of ``get_image_features`` in a session: the tower, and behind it what a method decides."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

from nuwa.engine import guards
from nuwa.engine.about import About, content_ids
from nuwa.engine.call import EncodedImages, Rules, current_call, deciding
from nuwa.engine.tower import run_tower
from nuwa.engine.vision import plan_images
from nuwa.models.base import Family

_ENCODED = "_nuwa_encoded"
_encoding: ContextVar[tuple[threading.Lock, ...]] = ContextVar("encoding", default=())
"""The locks of the sessions that encode in this thread: one may, while a method of another decides."""


def pruning_encoder(rules: Rules, about: About, family: Family, running: threading.Lock) -> Callable[..., Any]:
    """The encoder of a family for a session; ``running`` is held while one of the session's encodes.

    generate() reads its signature to know which inputs belong to the images.
    """
    original = family.encode_images
    signature = inspect.signature(original)

    @functools.wraps(original)
    def get_features(*args: Any, **kwargs: Any) -> Any:
        if running in _encoding.get():  # Qwen3-VL encodes videos by its method for pictures
            return original(*args, **kwargs)
        token = _encoding.set((*_encoding.get(), running))
        try:
            with running:  # what is read off tower and projector has to be this call's
                output, encoded = _encode(rules, about, family, original, signature.bind(*args, **kwargs).arguments)
        finally:
            _encoding.reset(token)
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
    if rules.pruner.prunes_vision:
        guards.check_feature_choice(arguments, family.config)
    arguments = family.prepare(arguments)
    seen = run_tower(rules, family, original, arguments)
    output, count = seen.output, len(seen.images)
    about.check(count, exact=len(rules.kinds) == 1)
    last = family.kind == "video"  # of a call's images these come last
    names, questions = (given and (given[-count:] if last else given[:count]) for given in about.told())
    names = content_ids(family.pixels(arguments)) if names is None else names
    with deciding(family):
        plans = plan_images(rules, family, seen, names, questions)
    output.pooler_output = family.join(seen.images, output.pooler_output)
    if seen.planes:
        output[family.planes_at] = seen.planes
    return output, EncodedImages(plans)
