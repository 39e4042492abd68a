"""The tiny models by name."""

from nuwa.tiny.family import Family
from nuwa.tiny.tiny_llava import TinyLlava
from nuwa.tiny.tiny_qwen import TinyQwen

FAMILIES: dict[str, Family] = {family.name: family for family in (TinyLlava(), TinyQwen())}
