"""What a session leaves on a model while it is open: hooks, and functions in place of the model's own.

A deep copy of the model has neither, and does not prune.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from nuwa.engine.guards import SessionError

_ATTACHED, _COPY = "_nuwa_session", "__deepcopy__"
_HOOKS = (
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
)
"""Where a module keeps hooks and what it knows of them, by the number of their handle."""


class Attachment:
    """Puts ``functions`` in place of an ``owner``'s own, by name, until `remove`; ``handles`` are of hooks to remove.

    ``owner`` is the module ``model.model``; there `session_on` finds the ``session``.

    Raises:
        SessionError: the model already has a session.
    """

    def __init__(
        self, session: object, model: nn.Module, owner: nn.Module, functions: Mapping[str, Callable[..., Any]]
    ) -> None:
        if session_on(owner) is not None:
            raise SessionError(
                "this model already has a pruning session; leave it before entering another (one that is lost, with "
                "nuwa.detach(model))"
            )
        self.session, self.model, self.owner, self.functions = session, model, owner, functions
        self.handles: list[RemovableHandle] = []
        self._replaced = {name: own for name, own in owner.__dict__.items() if name in functions}
        owner.__dict__.update({_ATTACHED: session, **functions})
        model.__dict__[_COPY] = self._copy

    def remove(self) -> None:
        """Leave the model as it was."""
        for handle in self.handles:
            handle.remove()
        self._restore(self.model, self.owner)

    def _restore(self, model: nn.Module, owner: nn.Module) -> None:
        del model.__dict__[_COPY], owner.__dict__[_ATTACHED]
        for name in self.functions:
            del owner.__dict__[name]
        owner.__dict__.update(self._replaced)

    def _copy(self, memo: dict[int, Any]) -> nn.Module:
        """A deep copy of the model without this session."""
        twin = memo[id(self.model)] = type(self.model).__new__(type(self.model))
        memo |= {id(mine): mine for mine in (self, self.session)}
        twin.__dict__.update(copy.deepcopy(self.model.__dict__, memo))
        for module in twin.modules():
            for name in _HOOKS:
                for handle in self.handles:
                    module.__dict__[name].pop(handle.id, None)
        self._restore(twin, twin.get_submodule("model"))
        return twin


def session_on(owner: nn.Module) -> Any:
    """The session that is open on a model whose ``model.model`` is ``owner``, if there is one."""
    return owner.__dict__.get(_ATTACHED)
