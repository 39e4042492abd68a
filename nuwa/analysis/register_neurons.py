"""Which channels of a vision tower's MLPs carry its outliers: the register neurons that OccamToken works with.

As the code of arXiv 2506.08010 finds them (nickjiang2378/test-time-registers, commit 860df435): the channels that are
most active, on average, in the tokens whose features have an outlying norm.

Shape letters: N patches of an image, D width of the tower, W width of its MLPs, T layers.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor, nn

from nuwa.analysis.survey import read_tower
from nuwa.models import adapter_for
from nuwa.models.loaded import LoadedModel
from nuwa.pruners.base import MisfitError
from nuwa.pruning.selection import strongest
from nuwa.samples import Sample


def outlier_activity(activations: Tensor, features: Tensor, threshold: float) -> Tensor | None:
    """Mean magnitude of activations (T, N, W) over the outliers of one image: (T, W); None if it has none.

    Outliers are the patches whose ``features`` (N, D) have a norm above the threshold.
    """
    outliers = features.float().norm(dim=-1) > threshold
    return activations.float().abs()[:, outliers].mean(1) if bool(outliers.any()) else None


def most_active(activity: Sequence[Tensor], top: int, last_layer: int) -> list[tuple[int, int]]:
    """The ``top`` pairs of layer and channel by the images' mean activity (T, W), most active first.

    Layers above ``last_layer`` do not count.
    """
    mean = torch.stack(list(activity)).mean(0)[: last_layer + 1]
    return [divmod(index, mean.shape[1]) for index in strongest(mean.flatten(), top).tolist()]


def tower_activity(loaded: LoadedModel, sample: Sample) -> tuple[Tensor, Tensor]:
    """Activations behind the non-linearity (T, N, W) of the first image's patches, and its features (N, D).

    Raises:
        MisfitError: the tower is no CLIP, or sees several crops of an image.
    """
    family = adapter_for(loaded.model)
    if family.tower.kind != "clip_vision_model" or family.tower.grid is None:
        raise MisfitError(
            f"register neurons are looked for in a CLIP tower that sees one crop, not in {family.tower.kind}"
        )
    seen: dict[int, Tensor] = {}

    def watch(layer: int, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen[layer] = args[0][0, 1:].detach()

    with ExitStack() as stack:
        for index, layer in enumerate(family.tower_layers):
            hook = functools.partial(watch, index)
            stack.callback(layer.get_submodule("mlp.fc2").register_forward_pre_hook(hook).remove)
        recording = read_tower(loaded, sample, lambda recording, run: None)
    return torch.stack([seen[index] for index in sorted(seen)]), recording.selected[0]


def find_neurons(
    loaded: LoadedModel, samples: Sequence[Sample], threshold: float, top: int = 10, depth: float = 0.5
) -> dict[str, object]:
    """What a file of register neurons holds: the ``top`` neurons up to a ``depth`` of the tower, and how found.

    Raises:
        ValueError: no patch of any sample is an outlier.
    """
    tower, activity, largest, layers = adapter_for(loaded.model).tower, [], 0.0, 0
    for sample in samples:
        activations, features = tower_activity(loaded, sample)
        largest, layers = max(largest, float(features.float().norm(dim=-1).max())), len(activations)
        found = outlier_activity(activations, features, threshold)
        activity += [] if found is None else [found]
    if not activity:
        raise ValueError(
            f"none of {len(samples)} images has a patch with a norm above --threshold {threshold:g} (the largest is "
            f"{largest:.3g}): this tower has no outliers there; lower it, or use pruner.register=none"
        )
    neurons = most_active(activity, top, max(0, round(depth * layers) - 1))
    return {
        "tower": tower.kind,
        "sizes": dict(tower.sizes),
        "neurons": [list(pair) for pair in neurons],
        "threshold": threshold,
        "depth": depth,
        "images": len(samples),
        "images_with_outliers": len(activity),
        "largest_norm": largest,
    }


def write_neurons(path: Path, content: dict[str, object]) -> None:
    """A file for ``pruner.register``."""
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
