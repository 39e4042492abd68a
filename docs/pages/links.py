"""Markdown written for GitHub, as the site needs it: links between places of the repository, lists behind text, badges.

Paths are those of the repository, in POSIX form. Nothing here needs MkDocs.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping

_CODE = r"^(?P<fence>```+).*?^(?P=fence)|`[^`\n]+`"
_LINK = rf"(?ms:{_CODE})|(?P<text>!?\[(?:[^\[\]]|\[[^\]]*\])*\])\((?P<target>[^)\s]+)\)"
_BADGE = r"\[!\[[^\]]*\]\(https?://[^)]*\)\]\([^)]*\)\n?"
_ITEM = r"([-*]|\d+\.) "
_ABROAD = r"""=["']?(?:https?:)?//[^>]*"""
_REMOTE = (
    rf"<(?:script|img|iframe)\b[^>]*\bsrc{_ABROAD}"
    rf"|<link\b(?![^>]*\brel=[\"']?(?:canonical|prev|next)\b)[^>]*\bhref{_ABROAD}"
)


def link_targets(text: str) -> list[str]:
    """What the links and pictures of a text lead to, without those in code."""
    return [found["target"] for found in re.finditer(_LINK, text, re.MULTILINE) if found["target"]]


def repository_path(target: str, source: str) -> str | None:
    """The path that a link of the document ``source`` leads to; None if it leads to the net or stays on the page."""
    if target.startswith("#") or re.match(r"[a-z]+:", target):
        return None
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), target.partition("#")[0]))


def move_links(text: str, source: str, pages: Mapping[str, str], repository: str) -> str:
    """A document with its links as they have to be on its page.

    Args:
        text: Markdown of the document ``source``.
        pages: by path, what the site has: the page of a document, a picture.
        repository: the address of the repository, where what the site lacks is found; empty: it becomes plain text.
    """

    def moved(found: re.Match[str]) -> str:
        path = repository_path(found["target"] or "#", source)
        if path in pages:
            target = posixpath.relpath(pages[path], posixpath.dirname(pages[source]) or ".")
            return f"{found['text']}({target}{''.join(found['target'].partition('#')[1:])})"
        if path is None or path.startswith("docs/"):  # a document that is missing is for MkDocs to name
            return found[0]
        return f"{found['text']}({repository}/blob/main/{path})" if repository else found["text"][1:-1]

    return re.sub(_LINK, moved, text, flags=re.MULTILINE)


def linked_names(text: str, pages: Mapping[str, str]) -> str:
    """A text whose tables lead from a name in code to the page about it."""

    def linked(found: re.Match[str]) -> str:
        return f"[{found[0]}]({pages[found[1]]})" if found[1] in pages else found[0]

    lines = text.split("\n")
    return "\n".join(re.sub(r"`(\w+)`(?!\])", linked, line) if line.startswith("|") else line for line in lines)


def without_badges(text: str) -> str:
    """A text without the badges that a browser would have to fetch."""
    return re.sub(_BADGE, "", text)


def spaced_lists(text: str) -> str:
    """A text with a blank line before a list that follows a line of text: GitHub needs none, Python-Markdown does."""
    lines: list[str] = []
    in_code = in_list = False
    for line in text.splitlines():
        if line.startswith("```"):
            in_code = not in_code
        item = not in_code and re.match(_ITEM, line) is not None
        if item and not in_list and lines and lines[-1].strip():
            lines.append("")
        in_list = item or (in_list and bool(line.strip()))
        lines.append(line)
    return "\n".join(lines) + "\n"


def fetched(page: str) -> list[str]:
    """The tags of a page for which a browser would turn to the net: scripts, pictures, style sheets."""
    return re.findall(_REMOTE, page)
