"""The vision pass of a call: equal images go through the tower once, and not at all if a cache has them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from nuwa.engine.call import Rules
from nuwa.engine.feature_cache import tensor_digest
from nuwa.models.base import FOUND, Family
from nuwa.models.towers import Recording
from nuwa.pruning.layout import Grid, ImageLayout

_PLAIN, _STACKED, _PLANE = (str, int, float, list, tuple), "images", "plane {} image {}"


@dataclass
class Encoded:
    """What a call of ``get_image_features`` gave: its output, each image's features (n_tokens, H), and the taps.

    ``planes``: the same of the family's other planes of features, one list of images each. ``layouts`` of the images.
    ``smaller``: the grid of the smaller images that the tower saw, None where it saw the whole ones. ``key`` names all
    this, given the model; it is empty without a cache.

    ``pooler_output`` of the output holds the images as a list, or as a tensor where the model returns one.
    """

    output: Any
    images: list[Tensor]
    recording: Recording
    planes: list[list[Tensor]]
    layouts: list[ImageLayout]
    smaller: Grid | None
    key: str


def run_tower(rules: Rules, adapter: Family, encode: Callable[..., Any], arguments: Mapping[str, Any]) -> Encoded:
    """Call ``encode`` (``get_image_features``) with its ``arguments`` by name and read the method's taps off the tower.

    Equal images run once if the rules say ``share``. What a ``cache`` holds is used for a call with the very same
    images in the same order, so that it changes no bit.
    """
    share, cache, given = rules.share, rules.cache, arguments
    taps, smaller = list(rules.pruner.taps.values()), rules.pruner.image_grid(adapter.grid, adapter.shape.layers)
    count = len(adapter.pixels(arguments))
    owners, key = list(range(count)), ""
    if share or cache is not None:
        pairs = zip(adapter.pixels(arguments), adapter.sizes(arguments), strict=True)
        digests = [tensor_digest(*pair) for pair in pairs]
        if share:
            distinct = list(dict.fromkeys(digests))
            owners = [distinct.index(digest) for digest in digests]
            if len(distinct) < count:
                arguments = adapter.select_images(arguments, [digests.index(digest) for digest in distinct])
                digests = distinct
        key = "\n".join([*digests, *sorted(map(str, taps)), str(smaller), _asked(arguments)])
    tensors = None if cache is None else cache.load(key, next(adapter.model.parameters()).device)
    if tensors is None:
        with adapter.record(taps, arguments) as recording:
            if smaller is None:
                output = encode(**_by_name(arguments))
            else:
                output = adapter.encode_smaller(encode, arguments, smaller)
        if cache is not None:
            more = {
                _PLANE.format(n, i): x for n, plane in enumerate(_planes(adapter, output)) for i, x in enumerate(plane)
            }
            cache.store(key, recording.state_dict(taps) | _named(output.pooler_output) | more)
    else:
        recording = adapter.new_recording(arguments)
        recording.load_state_dict(tensors, taps)
        output = _output(adapter, tensors, len(set(owners)))
    recording.expand_to(owners)
    images = adapter.split(output.pooler_output, arguments)
    images, *planes = ([plane[owner] for owner in owners] for plane in (images, *_planes(adapter, output)))
    layouts = adapter.layouts(images, given)
    return Encoded(output, images, recording, planes, layouts, smaller, f"{key}\n{owners}" if key else "")


def _planes(family: Family, output: Any) -> list[Sequence[Tensor]]:
    """The family's other planes of features in an output, each with its images."""
    return [] if family.planes_at is None else list(output[family.planes_at])


def _output(family: Family, tensors: Mapping[str, Tensor], count: int) -> Any:
    """The output for ``count`` images, from what a cache kept of it."""
    names = _named(range(count))
    pooled: Any = tensors[_STACKED] if _STACKED in tensors else [tensors[name] for name in names]
    output = BaseModelOutputWithPooling(pooler_output=pooled)
    if family.planes_at is not None:
        numbers = itertools.takewhile(lambda n: _PLANE.format(n, 0) in tensors, itertools.count())
        output[family.planes_at] = [[tensors[_PLANE.format(n, i)] for i in range(count)] for n in numbers]
    return output


def _by_name(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Bound arguments of ``get_image_features``, those that its ``**kwargs`` took in among the others."""
    own = {name: value for name, value in arguments.items() if name not in ("kwargs", FOUND)}
    return own | arguments.get("kwargs", {})


def _asked(arguments: Mapping[str, Any]) -> str:
    """What a call says besides its images: from which layer features are wanted, for instance."""
    return str(sorted((name, value) for name, value in _by_name(arguments).items() if isinstance(value, _PLAIN)))


def _named(images: Sequence[Any] | Tensor) -> dict[str, Any]:
    """The images of a call, a list or one tensor, by the names under which a cache keeps them."""
    if torch.is_tensor(images):
        return {_STACKED: images}
    return {f"image {number}": image for number, image in enumerate(images)}
