"""Names of torchvision for imports that need no more: on a CPU, PyPI has none that can be imported.

vLLM's own LLaVA imports another model's picture processor, and that one torchvision. Pictures are prepared by Pillow.
"""

import enum
import sys
import types

__version__ = "0.28.0"
__path__: list[str] = []


class InterpolationMode(enum.Enum):
    NEAREST = "nearest"
    NEAREST_EXACT = "nearest-exact"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    BOX = "box"
    HAMMING = "hamming"
    LANCZOS = "lanczos"


class _Names(types.ModuleType):
    """A module in which every name is an empty class."""

    InterpolationMode = InterpolationMode

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


for _path in ("io", "transforms", "transforms.functional", "transforms.v2", "transforms.v2.functional"):
    _module = sys.modules[f"{__name__}.{_path}"] = _Names(f"{__name__}.{_path}")
    _module.__path__ = []
    _parent, _, _last = _module.__name__.rpartition(".")
    setattr(sys.modules[_parent], _last, _module)
