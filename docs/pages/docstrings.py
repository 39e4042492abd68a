"""Docstrings as Markdown: the examples behind ``>>>`` are code."""

from __future__ import annotations

from typing import Any

import griffe


class Examples(griffe.Extension):
    """Puts a fence around paragraphs that begin with ``>>>``."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change the docstring of whatever has one."""
        if obj.docstring:
            obj.docstring.value = fenced_examples(obj.docstring.value)


def fenced_examples(text: str) -> str:
    """A docstring with its examples in fences."""
    paragraphs = text.split("\n\n")
    return "\n\n".join(f"```python\n{part}\n```" if part.startswith(">>> ") else part for part in paragraphs)
