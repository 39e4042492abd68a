"""The tiny models by name."""

from nuwa.tiny.base import TinyModel
from nuwa.tiny.tiny_llava import TinyLlava
from nuwa.tiny.tiny_qwen import TinyQwen
from nuwa.tiny.tiny_text import TinyText
from nuwa.tiny.tiny_video import TinyVideo

TINY_MODELS: dict[str, TinyModel] = {tiny.name: tiny for tiny in (TinyLlava(), TinyQwen(), TinyVideo(), TinyText())}
