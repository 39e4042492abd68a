"""Counts where a GPU would have to be waited for, on the pretended GPUs of `helpers.devices`, and what runs on them.

An operation synchronises if the host must know a value to go on: a number that is read, a mask that is indexed with, a
tensor that comes to the CPU. What runs on CPU tensors counts for nothing.
"""

from __future__ import annotations

import traceback
from collections import Counter

import torch
from helpers.devices import CPU, Pretend, device_of
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
READS = {
    aten._local_scalar_dense, aten.nonzero, aten.nonzero_numpy, aten.equal, aten.bincount, aten.masked_select,
    aten._unique2, aten.unique_dim, aten.unique_consecutive, aten.linalg_svd, aten._linalg_svd}  # fmt: skip
"""Operations whose result, or the size of it, the host reads."""
MASKED = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
"""Operations that do so if one of their indices is a mask."""
CHECKED = ("quantile", "one_hot")
"""Functions that read a number on CPU tensors only."""


class Syncs(Pretend):
    """Inside, tensors have the device they claim, and what happens on GPUs is counted.

    ``places`` counts the synchronising operations by the line that asked for them, ``operations`` all others but views.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0
        self.places: Counter[str] = Counter()
        self.counting = False
        self._mode = _Dispatch(self)

    @property
    def syncs(self) -> int:
        """How many synchronising operations there were."""
        return self.places.total()

    def __enter__(self):
        super().__enter__()
        self._mode.__enter__()
        return self

    def __exit__(self, *exception) -> None:
        self._mode.__exit__(*exception)
        super().__exit__(*exception)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name, outer = getattr(function, "__name__", ""), self.counting
        values = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        asked = (kwargs or {}).get("device")
        here = any(device_of(x) != CPU for x in values) or (asked is not None and torch.device(asked) != CPU)
        self.counting = outer or (here and name not in CHECKED)
        try:
            out = super().__torch_function__(function, types, args, kwargs)
        finally:
            self.counting = outer
        arrives = name in ("cpu", "to") and isinstance(out, Tensor) and device_of(out) == CPU
        if here and (name == "tolist" or arrives) and device_of(args[0]) != CPU:
            self.note()
        return out

    def note(self) -> None:
        """Count a synchronising operation at the innermost line that is neither torch's nor of this folder."""
        frames = traceback.extract_stack()
        mine = [f for f in frames if "/torch/" not in f.filename and "/tests/helpers/" not in f.filename]
        name = mine[-1].filename
        start = max(name.rfind("/nuwa/"), name.rfind("/transformers/"))
        self.places[f"{name[start + 1 :]}:{mine[-1].lineno}"] += 1


class _Dispatch(TorchDispatchMode):
    def __init__(self, owner: Syncs) -> None:
        super().__init__()
        self.owner = owner

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if self.owner.counting:
            packet = func.overloadpacket
            masked = packet in MASKED and any(x is not None and x.dtype in (torch.bool, torch.uint8) for x in args[1])
            sized = packet is aten.repeat_interleave and (kwargs or {}).get("output_size") is None
            if packet in READS or masked or sized:
                self.owner.note()
            elif not any(r.alias_info and not r.alias_info.is_write for r in func._schema.returns):
                self.owner.operations += 1
        return func(*args, **(kwargs or {}))
