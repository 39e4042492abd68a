"""Language models as judges: a function of a prompt and a temperature that returns the reply."""

from __future__ import annotations

import json
import os
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any

from nuwa.benchmarks.base import BenchmarkError

Judge = Callable[[str, float], str]
TRIES, TIMEOUT, PAUSE = 3, 60.0, 2.0
"""How often the judge is asked; how many seconds it may take, and how many to wait before another try, then doubled."""


class JudgeError(RuntimeError):
    """The judge cannot be reached or refuses. A run stops, keeps what it has, and goes on when started again."""


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
                with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
                    return _reply(json.load(response))
            except (OSError, ValueError, HTTPException) as error:
                reason = error
            if attempt < TRIES - 1:
                time.sleep(PAUSE * 2**attempt)
        raise JudgeError(f"judge {self.model} at {self.url}: {reason}") from reason


def _reply(answer: Any) -> str:
    """The text of a chat completion; "" if it has none."""
    try:
        content = answer["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(f"no chat completion: {str(answer)[:200]}") from error
    if not isinstance(content, str | None):
        raise ValueError(f"a reply that is no text: {str(content)[:200]}")
    return content or ""
