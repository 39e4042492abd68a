"""MMTok (ICLR 2026; code Ironieser/MMTok, commit d1522cda): tokens that cover the question's words and the image.

How well a token covers a word, or another token, is a softmax of cosines. Greedily, the token is taken that adds most
to how well all words and tokens are covered by the best taken one.

Shape letters: B images, N tokens of a view, m words' tokens, D width.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from nuwa.pruners.base import MethodInfo, Pruner, Tap, VisionContext, VisionDecision, require
from nuwa.pruning.flops import ModelShape, cosine_flops

POST_PROMPTS = (
    "Answer the question using a single word or phrase.",
    "Answer with the option's letter from the given choices directly.",
)
"""Instructions behind a question that say nothing about the image."""
STOP_WORDS = (
    "a an and answer are at be been being but by did do does for from had has have he how i if into is it onto or "
    "question she so the then they to upon was we were what when where which who why with you"
)


def words_of(question: str) -> list[str]:
    """The words of a question that its tokens are taken from.

    Without the post-prompts and the stop words; if nothing is left, all that stands before the post-prompts.

    >>> words_of("Is there a dog in the image?\\nAnswer the question using a single word or phrase.")
    ['there', 'dog', 'in', 'image']
    """
    for instruction in POST_PROMPTS:
        question = question.replace(instruction, "")
    words = [word for word in re.findall(r"\b\w+\b", question) if word.lower() not in STOP_WORDS.split()]
    return words or question.split()


def softmax_cosines(queries: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """Softmax over the keys (..., N, D) of cosines with the queries (..., m, D), divided by m: (..., m, N)."""
    directions = [functional.normalize(side.float(), dim=-1) for side in (queries, keys)]
    return (directions[0] @ directions[1].mT / temperature).softmax(-1) / queries.shape[-2]


def cover(coverage: Tensor, keep: int) -> Tensor:
    """The columns of ``coverage`` (B, m, N) in the order in which they are taken: (B, ``keep``).

    Each adds most to the sum over rows of the largest value among the columns taken. Nothing is read off the device.
    """
    best, picks = torch.zeros_like(coverage[..., :1]), []
    open_to = torch.zeros_like(coverage[:, 0])
    for _ in range(keep):
        picks.append(((coverage - best).relu().sum(1) + open_to).argmax(1, keepdim=True))
        open_to = open_to.scatter(1, picks[-1], float("-inf"))
        column = picks[-1][:, None].expand(-1, coverage.shape[1], -1)
        best = best.maximum(coverage.gather(2, column))
    return torch.cat(picks, 1)


@dataclass
class MMTok(Pruner):
    """Cover the words of the question and the image, before the LLM.

    Words are compared, as embeddings of the LLM, with projected features, at ``text_temperature``; tokens with tokens
    by the tower's features, at ``vision_temperature`` and weighted with ``image``. ``text: filtered`` leaves out stop
    words and what asks for short answers, as the authors do for LLaVA; ``whole`` is their text for Qwen2.5-VL, the
    whole question behind "Question: ". The session has to be told the questions. ``tokenizer`` is a folder or a Hugging
    Face id, ``null`` the one in the folder that the model was loaded from.
    """

    image: float = 0.5
    text_temperature: float = 0.02
    vision_temperature: float = 0.2
    text: Literal["filtered", "whole"] = "filtered"
    tokenizer: str | None = None

    name: ClassVar[str] = "mmtok"
    native_position: ClassVar[str] = "perc"
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="ICLR 2026",
        source="Ironieser/MMTok@d1522cda",
        signal="coverage of the question's words and of all tokens",
        text_aware=True,
        counts="authors'",
    )
    taps: ClassVar[Mapping[str, Tap]] = {"states": Tap("states")}

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.image >= 0, "image", "0 or more", self.image)
        for key in ("text_temperature", "vision_temperature"):
            require(getattr(self, key) > 0, key, "above 0", getattr(self, key))

    def prune_vision(self, context: VisionContext, keep: int) -> VisionDecision:
        images, n_tokens = context.features.shape[:2]
        if keep == n_tokens:
            return VisionDecision(torch.arange(keep, device=context.features.device).expand(images, -1))
        words = self.embed(context)
        projected, states = context.project(context.features), context.taps["states"]
        rows = [softmax_cosines(*pair, self.text_temperature) for pair in zip(words, projected, strict=True)]
        covered = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        image = self.image * softmax_cosines(states, states, self.vision_temperature)
        chosen = cover(torch.cat([covered, image], 1), keep)
        return VisionDecision(chosen.sort(dim=1).values, extras={"relevance": covered.sum(1)})

    def embed(self, context: VisionContext) -> list[Tensor]:
        """The embeddings (m, D) of the words asked about each image.

        Raises:
            ValueError: there is no question, or no word in it.
        """
        if context.questions is None:
            raise ValueError(
                "pruner mmtok reads questions: call the model inside session.about(questions=[...]), one for each image"
            )
        asked: list[Sequence[str]] = []
        for name, question in zip(context.ids, context.questions, strict=True):
            words = words_of(question) if self.text == "filtered" else f"Question: {question}".split()
            if not words or not question.strip():
                raise ValueError(f"pruner mmtok, image {name}: there is no word in the question {question!r} to cover")
            asked.append(words)
        assert context.embed is not None  # the engine always has it
        tokens = import_module("nuwa.models.words").token_ids(self.tokenizer or context.source, asked)
        return [context.embed(ids) for ids in tokens]

    def metric_flops(self, n_tokens: int, shape: ModelShape) -> float:
        """All pairs, and a comparison of all pairs per pick; the words depend on the question."""
        kept = self.schedule(n_tokens, shape.layers).vision
        return cosine_flops(n_tokens, shape.vision_hidden) + 2 * kept * n_tokens**2
