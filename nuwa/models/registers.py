"""A register token in a vision tower, which takes the outlier activations off the patches (arXiv 2506.08010).

A few channels of MLPs in early layers carry the outliers. In each, the extra token gets the largest value of the
patches, which get zero. The rule per channel is OccamToken's (arXiv 2605.29657).

Shape letters: C crops, P tokens of a crop (CLS first, if there is one, the register last), W width of an MLP.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nuwa.files import local_path
from nuwa.pruners.base import MisfitError, Tower

Neurons = Sequence[tuple[int, int]]
"""Pairs of a layer and a channel of its MLP."""


def shift_to_register(activations: Tensor, channels: Sequence[int], cls: bool) -> Tensor:
    """Activations (C, P, W) in which the listed channels of the patches went to the register.

    >>> shift_to_register(torch.tensor([[[1.0, 5.0], [2.0, 6.0], [0.0, 0.0]]]), [1], cls=False).tolist()
    [[[1.0, 0.0], [2.0, 0.0], [0.0, 6.0]]]
    """
    index = torch.tensor(channels, device=activations.device)
    patches = activations[:, cls:-1, index]
    emptied = activations[:, cls:-1].index_fill(2, index, 0)
    register = activations[:, -1:].index_copy(2, index, patches.amax(1, keepdim=True))
    return torch.cat([activations[:, :cls], emptied, register], 1)


@contextmanager
def with_register(layers: Sequence[nn.Module], reader: nn.Module, neurons: Neurons, cls: bool) -> Iterator[None]:
    """A tower of CLIP's layers runs with a register, which its ``reader`` does not see; without neurons, as it is."""
    channels: dict[int, list[int]] = {}
    for layer, channel in neurons:
        channels.setdefault(layer, []).append(channel)

    def append(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Any, ...]:
        return torch.cat([args[0], torch.zeros_like(args[0][:, :1])], 1), *args[1:]

    def remove(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Any, ...]:
        return args[0][:, :-1], *args[1:]

    with ExitStack() as stack:
        if channels:
            stack.callback(layers[0].register_forward_pre_hook(append).remove)
            stack.callback(reader.register_forward_pre_hook(remove).remove)
        for layer, mine in channels.items():
            out = layers[layer].get_submodule("mlp.fc2")

            def shift(module: nn.Module, args: tuple[Tensor, ...], mine: list[int] = mine) -> tuple[Tensor, ...]:
                return (shift_to_register(args[0], mine, cls),)

            stack.callback(out.register_forward_pre_hook(shift).remove)
        yield


def read_neurons(path: str, tower: Tower | None = None) -> tuple[tuple[int, int], ...]:
    """The neurons in a file that `nuwa.analysis.register_neurons` wrote; of this ``tower``, if one is given.

    Raises:
        MisfitError: the file is about another tower, or the tower cannot have a register.
        ValueError: it is no such file.
    """
    try:
        content: Mapping[str, Any] = json.loads(Path(local_path(path)).read_text(encoding="utf-8"))
        neurons = tuple((int(layer), int(channel)) for layer, channel in content["neurons"])
        about = content["tower"], content["sizes"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"pruner.register={path} is no file of neurons ({error!r}); "
            "python experiments/analysis/register_neurons.py writes one, pruner.register=none does without"
        ) from error
    if tower is not None and about != (tower.kind, dict(tower.sizes)):
        raise MisfitError(f"pruner.register={path} is about a {about[0]} of {about[1]}, not of {dict(tower.sizes)}")
    return neurons
