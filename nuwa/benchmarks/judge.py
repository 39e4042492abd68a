"""Language models as judges: a function of a prompt and a temperature that returns the reply."""

from __future__ import annotations

import json
import os
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from nuwa.benchmarks.base import BenchmarkError

Judge = Callable[[str, float], str]
TRIES, TIMEOUT, PAUSE = 3, 60.0, 2.0
"""How often the judge is asked; how many seconds it may take, and how many to wait before another try, then doubled."""
LONGEST = 64 * 1024
"""Bytes of a reply."""
HOPELESS = 10


class JudgeError(RuntimeError):
    """The judge cannot be reached or refuses. A run stops, keeps what it has, and goes on when started again."""


@dataclass
class Patience:
    """Counts replies in a row that are no marks."""

    unread: int = 0

    def note(self, read: bool) -> None:
        """Take note of a reply.

        Raises:
            JudgeError: it is the `HOPELESS`-th in a row that is no mark.
        """
        self.unread = 0 if read else self.unread + 1
        if self.unread == HOPELESS:
            raise JudgeError(f"the judge's last {HOPELESS} replies were no marks (a number from 0 to 1); try another")


@dataclass(frozen=True)
class OpenAIJudge:
    """A server that speaks OpenAI's chat completions.

    Args:
        url: up to and including the version, e.g. ``https://api.openai.com/v1``.
        model: the server's name for the judge.
        key_variable: the environment variable that holds the key; a server on this machine may need none.
    """

    url: str
    model: str
    key_variable: str | None = None

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise BenchmarkError(f"dataset.judge_url={self.url} must start with http:// or https://")
        if self.key_variable and not os.environ.get(self.key_variable):
            raise BenchmarkError(f"dataset.judge_key_variable={self.key_variable}: there is no such variable")
        parts = urlsplit(self.url)
        if self.key_variable and parts.scheme == "http" and not _is_loopback(parts.hostname):
            variable = f"dataset.judge_key_variable={self.key_variable}"
            raise BenchmarkError(f"dataset.judge_url={self.url}: {variable} would be sent in the clear; use https")

    def __call__(self, prompt: str, temperature: float) -> str:
        """The reply.

        Raises:
            JudgeError: no reply that can be read after three tries.
        """
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": temperature,
            "max_tokens": 3,
        }
        headers = {"Content-Type": "application/json"}
        if self.key_variable:
            headers["Authorization"] = f"Bearer {os.environ[self.key_variable]}"
        request = urllib.request.Request(f"{self.url.rstrip('/')}/chat/completions", json.dumps(body).encode(), headers)
        for attempt in range(TRIES):
            try:
                return _reply(json.loads(_body(request)))
            except (OSError, ValueError, HTTPException) as error:
                reason = error
            if attempt < TRIES - 1:
                time.sleep(PAUSE * 2**attempt)
        raise JudgeError(f"judge {self.model} at {self.url}: {reason}") from reason


class _SameServer(urllib.request.HTTPRedirectHandler):
    """Follows redirects within the server alone: requests carry the key and the answers."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        if _origin(newurl) != _origin(req.full_url):
            raise ValueError(f"it redirects to another server, {_origin(newurl)}; give that one if you trust it")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _is_loopback(host: str | None) -> bool:
    """Whether a host is this machine."""
    with suppress(ValueError):
        return host == "localhost" or ip_address(host or "").is_loopback
    return False


def _body(request: urllib.request.Request) -> bytes:
    """What the server sends, at most `LONGEST` bytes, within `TIMEOUT` in all.

    Raises:
        OSError, ValueError, HTTPException: it cannot be had; TimeoutError also where it comes in drips.
    """
    end = time.monotonic() + TIMEOUT
    with urllib.request.build_opener(_SameServer).open(request, timeout=TIMEOUT) as response:
        body = b""
        while part := response.read1(LONGEST):
            body += part
            if len(body) > LONGEST:
                raise ValueError(f"a reply of more than {LONGEST} bytes")
            if time.monotonic() > end:
                raise TimeoutError(f"no whole reply within {TIMEOUT:g} s")
    return body


def _reply(answer: Any) -> str:
    """The text of a chat completion; "" if it has none."""
    try:
        content = answer["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(f"no chat completion: {str(answer)[:200]}") from error
    if not isinstance(content, str | None):
        raise ValueError(f"a reply that is no text: {str(content)[:200]}")
    return content or ""
