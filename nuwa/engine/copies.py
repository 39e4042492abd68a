"""Deep copies of a model that do not prune, though the model does."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

_HOOKS = (
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
)
"""Where a module keeps hooks and what it knows of them, by the number of their handle."""


def copy_without(
    model: nn.Module, handles: Iterable[RemovableHandle], owner: object, memo: dict[int, Any]
) -> nn.Module:
    """A deep copy of a model without the hooks of ``handles``, whose ``owner`` is not copied."""
    twin = memo[id(model)] = type(model).__new__(type(model))
    memo[id(owner)] = owner
    twin.__dict__.update(copy.deepcopy(model.__dict__, memo))
    for module in twin.modules():
        for name in _HOOKS:
            for handle in handles:
                module.__dict__[name].pop(handle.id, None)
    return twin
