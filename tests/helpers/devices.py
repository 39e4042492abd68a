"""GPUs that do not exist: CPU tensors that claim a device, and a mode that refuses to mix devices as CUDA would.

What torch functions called from Python see is checked; kernels stay the CPU's. Tensors are on the CPU unless marked.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._pytree import tree_flatten, tree_map_only

CPU = torch.device("cpu")
MARK = "_pretended_device"
MOVES = ("to", "cpu", "cuda", "type_as")
INDEXED = ("__getitem__", "__setitem__", "index_put", "index_put_")
"""Functions that take indices from the CPU for tensors on a GPU."""


def device_of(tensor: Tensor) -> torch.device:
    """The device that a tensor claims."""
    return getattr(tensor, MARK, CPU)


def mark(values: Any, device: torch.device) -> Any:
    """The same values, every tensor of them claiming a device."""

    def claim(tensor: Tensor) -> Tensor:
        setattr(tensor, MARK, device)
        return tensor

    return tree_map_only(Tensor, claim, values)


def moved(values: Any, device: torch.device) -> Any:
    """Copies of the tensors in nested values that claim a device."""
    return tree_map_only(Tensor, lambda x: x if device_of(x) == device else mark(x.detach().clone(), device), values)


class Pretend(TorchFunctionMode):
    """Inside, tensors have the device they claim."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = getattr(function, "__name__", "")
        tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
        read = getattr(function, "__self__", None) if name == "__get__" else None
        if read is Tensor.device:
            return device_of(args[0])
        if read is Tensor.is_cuda:
            return device_of(args[0]) != CPU
        if name == "__get__" or name in ("dim", "size", "stride", "numel", "__len__"):
            with torch._C.DisableTorchFunction():
                out = function(*args, **kwargs)
            return mark(out, device_of(args[0])) if isinstance(out, Tensor) else out
        if name == "numpy" and device_of(args[0]) != CPU:
            raise TypeError("can't convert a cuda tensor to numpy")
        asked = kwargs.pop("device", None)
        if name in MOVES and isinstance(args[0], Tensor):
            return self._move(name, args, kwargs, asked)
        device = self._common(function, name, args, tensors) if tensors else CPU
        device = device if asked is None else torch.device(asked)
        out = function(*args, **kwargs)
        return mark(out, device)

    def _move(self, name, args, kwargs, asked):
        source, *rest = args
        if name == "cpu":
            return moved(source, CPU)
        device, plain = asked, []
        for value in rest:
            if isinstance(value, Tensor):
                device = device_of(value)
                plain.append(value.dtype)
            elif isinstance(value, (str, torch.device)):
                device = value
            else:
                plain.append(value)
        device = device_of(source) if device is None else torch.device(device)
        out = Tensor.to(source, *plain, **kwargs) if plain or kwargs else source
        if out is source and device != device_of(source):
            out = out.clone()
        return mark(out, device)

    @staticmethod
    def _common(function, name, args, tensors) -> torch.device:
        """Where the result is; refuses operands on different devices."""
        if name in INDEXED:
            home = device_of(args[0])
            indices = [x for x in tree_flatten(args[1])[0] if isinstance(x, Tensor)]
            others = [x for x in tree_flatten(args[2:])[0] if isinstance(x, Tensor) and x.dim()]
            wrong = [x for x in indices if device_of(x) not in (CPU, home)]
            wrong += [x for x in others if device_of(x) != home]
        else:
            sized = [x for x in tensors if x.dim() or device_of(x) != CPU]
            home = device_of(sized[0]) if sized else CPU
            wrong = [x for x in sized if device_of(x) != home]
        if wrong:
            found = sorted({str(device_of(x)) for x in tensors})
            raise RuntimeError(f"{resolve_name(function) or name}: tensors on {', '.join(found)}")
        return home


@contextmanager
def pretend(model: nn.Module, place) -> Iterator[None]:
    """Let a model's parameters and buffers claim devices: ``place(name)`` of their module's path.

    Where it gives more than one, whatever lies on a single device moves its inputs there, as accelerate makes it.
    """
    held: list[Tensor] = []
    wrapped: list[nn.Module] = []
    for name, module in model.named_modules():
        held += mark([*module.parameters(recurse=False), *module.buffers(recurse=False)], torch.device(place(name)))
    if len({device_of(tensor) for tensor in held}) > 1:
        wrapped = [m for m in model.modules() if len({device_of(weight) for weight in m.parameters()}) == 1]
    for module in wrapped:
        module.forward = _aligned(module.forward, device_of(next(module.parameters())))
    try:
        with Pretend():
            yield
    finally:
        for tensor in held:
            delattr(tensor, MARK)
        for module in wrapped:
            del module.__dict__["forward"]


def _aligned(forward, device: torch.device):
    @functools.wraps(forward)
    def call(*args, **kwargs):
        # caches stay as they are: every layer's part is where the layer is
        cache = {k: kwargs.pop(k) for k in ("past_key_values",) if k in kwargs}
        args, kwargs = moved((args, kwargs), device)
        return forward(*args, **kwargs, **cache)

    return call
