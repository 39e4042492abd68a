"""A conversation about pictures and videos: the first question is read with them, further ones go on with the cache.

Shape letters: L tokens of the conversation.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

from nuwa.engine.arguments import cache_of, with_cache
from nuwa.engine.session import PruningSession
from nuwa.models.loaded import LoadedModel
from nuwa.models.prompts import IMAGE, VIDEO, PromptError
from nuwa.samples import Sample


@dataclass(frozen=True)
class Answer:
    """What was answered, and when: seconds from the question to the first token and to the last.

    ``prompt_tokens``: of the conversation up to the question, as the processor counts them, without pruning.
    """

    text: str
    first_seconds: float
    seconds: float
    new_tokens: int
    prompt_tokens: int


class Chat:
    """Questions about the pictures and videos ``shown``, answered greedily, inside ``session`` if there is one.

    The session is opened for every answer and closed behind it, so that a chat with and one without pruning can take
    turns on one model.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        shown: Sample,
        session: PruningSession | None = None,
        most_tokens: int = 128,
    ) -> None:
        self.loaded, self.shown, self.session, self.most_tokens = loaded, shown, session, most_tokens
        self._said: Tensor | None = None  # (1, L)
        self._cache: Cache | None = None

    @torch.no_grad()
    def ask(self, text: str) -> Answer:
        """Answer a question.

        Raises:
            PromptError: it cannot be put; the message says why.
        """
        sample = replace(self.shown, text=text)
        inputs = self.loaded.encode([sample]) if self._said is None else self._go_on(text)
        first = _FirstToken(self.loaded.device)
        with self._pruning(sample):
            start = time.perf_counter()
            output: Any = self.loaded.model.generate(
                **with_cache(self.loaded.model, inputs, self._cache),
                max_new_tokens=self.most_tokens,
                do_sample=False,
                num_beams=1,
                logits_processor=[first],
                return_dict_in_generate=True,
            )
            end = _now(self.loaded.device)
        self._said, self._cache = output.sequences, cache_of(output)
        length = inputs["input_ids"].shape[1]
        (answer,) = self.loaded.decode(output.sequences, length)
        return Answer(answer, first.time - start, end - start, output.sequences.shape[1] - length, length)

    @contextmanager
    def _pruning(self, sample: Sample) -> Iterator[None]:
        """The session, told what it is about."""
        if self.session is None:
            yield
            return
        with self.session, self.session.about(sample.image_ids or None, self.loaded.questions([sample])):
            yield

    def _go_on(self, text: str) -> dict[str, Tensor]:
        """Tensors of the conversation so far with a further question behind it."""
        turn, tokenizer = self.loaded.prompt.turn, self.loaded.tokenizer
        if turn is None:
            raise PromptError(f"model {self.loaded.name} takes one question: its file in conf/model has no `turn`")
        control = [token for token in (*tokenizer.all_special_tokens, IMAGE, VIDEO) if token in text]
        if control:
            raise PromptError(f"a further question cannot hold {', '.join(control)}")
        said = self._said
        assert said is not None
        ends = self.loaded.model.generation_config.eos_token_id
        if said[0, -1].item() in (ends if isinstance(ends, list) else [ends]):
            said = said[:, :-1]  # the turn begins with it
        asked = tokenizer(turn.replace("{text}", text), add_special_tokens=False, return_tensors="pt")["input_ids"]
        ids = torch.cat([said, asked.to(said)], 1)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        marks = self.loaded.pictures.marks_placeholders
        if marks is not None and self.shown.image_ids:
            kinds = enumerate(self.loaded.placeholders.values(), 1)
            inputs[marks] = torch.stack([number * torch.eq(ids, token) for number, token in kinds]).sum(0)
        return inputs


class _FirstToken:
    """Notes when the first token can be chosen, as a logits processor that changes nothing."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.time = device, 0.0

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        self.time = self.time or _now(self.device)
        return scores


def _now(device: torch.device) -> float:
    """The time when the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
