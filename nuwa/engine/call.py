"""A call of the model, and the pass of its language model over the tokens that are left.

Shape letters: B rows (prompts), L tokens of an unpruned prompt, P of those that are left, N behind them, C axes.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from nuwa.engine.calibration import key_bias
from nuwa.engine.feature_cache import FeatureCache
from nuwa.engine.prefix import Split
from nuwa.models.base import Family
from nuwa.pruners.base import LLMContext, LLMDecision, Pruner
from nuwa.pruning.calibration import biased, distance_bias
from nuwa.pruning.coordinates import Coordinates
from nuwa.pruning.masks import gather_tokens
from nuwa.pruning.prompt import ImagePlan, Prompt
from nuwa.pruning.segments import Keys, Segment, at_layer


@dataclass
class EncodedImages:
    """The plans of the images of a call, and what the prompt that showed them first has decided in the LLM.

    ``input_ids`` (B, L) are that prompt's, ``decisions`` its decisions by layer; ``beside``: what else it showed. A
    longer prompt that begins with it keeps them, so that decoding without a cache equals decoding with one.
    """

    plans: list[ImagePlan]
    input_ids: Tensor | None = None
    decisions: dict[int, LLMDecision] = field(default_factory=dict)
    beside: Sequence[EncodedImages] = ()

    def behind(self, input_ids: Tensor, drafts: int, beside: Sequence[EncodedImages] = ()) -> int:
        """How many tokens at the end of ``input_ids`` (B, L) no method sees: an answer so far, or ``drafts`` of one."""
        asked = self.input_ids
        more = 0 if asked is None else input_ids.shape[1] - asked.shape[1]
        same = len(beside) == len(self.beside) and all(map(operator.is_, beside, self.beside))
        if asked is not None and more > 0 and same and torch.equal(input_ids[:, :-more], asked):
            return more
        self.input_ids, self.decisions = input_ids[:, : input_ids.shape[1] - drafts], {}
        self.beside = beside
        return drafts


@dataclass(frozen=True)
class Rules:
    """What a session has decided for every call; ``kinds`` as in `Family`."""

    family: Family
    kinds: Mapping[str, Family]
    pruner: Pruner
    strategy: str
    share: bool = False
    cache: FeatureCache | None = None
    calibration: str = "none"
    coordinates: Coordinates | None = None
    merges_planes: bool = True


@dataclass
class Step:
    """One pass of the language model over a prompt and what stands behind it, or over the latter alone.

    ``before``: what the layers have cached of the conversation, by layer; ``length`` tokens of a row, had none left.
    ``new`` (B, N) bool: tokens behind the prompt, False on padding, which is neither seen nor counted; ``padded``: some
    may be padding. ``prompt`` is the latest one, ``segments`` what is left of it, by layer; none where it has been read
    before. ``called_with``: the tables that the language model's own mask and ids are of. ``calibration`` is the
    session's.

    ``stages`` maps the pruning layers of the prompt to the (B, I) tokens that stay there. ``companions`` are those of
    the tokens in the layers (B, P + N, ...), as the family gives them. ``split``: rows share prefixes, and only what
    stands behind these runs here; ``prefixes``: this is the pass over the prefixes. ``transitions`` are what the blocks
    of layers did to the prompt's tokens that are left (B, P), by layer.
    """

    calibration: str
    before: Sequence[Segment]
    length: int
    new: Tensor
    padded: bool
    prompt: Prompt | None
    segments: list[Segment] = field(default_factory=list)
    images: EncodedImages | None = None
    stages: dict[int, Tensor] = field(default_factory=dict)
    companions: dict[str, Tensor] = field(default_factory=dict)
    split: Split | None = None
    prefixes: bool = False
    previous: LLMContext | None = None
    first: LLMContext | None = None
    transitions: dict[int, Tensor] = field(default_factory=dict)

    called_with: list[Segment] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._overrides: dict[tuple, dict[str, Any]] = {}

    def tables(self, layer: int) -> list[Segment]:
        """The tables of the tokens that the queries of a layer may see."""
        return [at_layer(tables, layer) for tables in (self.before, self.segments) if tables]

    def narrowed(self, layer: int) -> bool:
        """Whether a layer holds other tokens than the language model was called with."""
        return any(one is not other for one, other in zip(self.tables(layer), self.called_with, strict=True))

    def keys(self, tables: Sequence[Segment]) -> Keys:
        """What the queries of a layer with these tables may see."""
        starts = [0, self.length] if self.before and self.segments else [0]
        whole = prompt_of(self).whole.length if self.segments else 0
        return Keys(tables, self.new, [*starts, self.length + whole])

    @property
    def tail(self) -> int:
        """Tokens of a prompt's pass that stand behind the prompt."""
        return self.new.shape[1] if self.segments else 0

    def position_ids(self, tables: Sequence[Segment], queries: int) -> Tensor:
        """Position ids (C, B, Q) of the last ``queries`` tokens of this pass."""
        if not self.new.shape[1]:
            return tables[-1].ids[..., -queries:]
        ids = tables[-1].next_id[..., None] + self.new.cumsum(1) - 1
        return (torch.cat([tables[-1].ids, ids], -1) if self.segments else ids)[..., -queries:]

    def take(self, values: Tensor, places: Tensor) -> Tensor:
        """Of values (B, P + N, ...) of a prompt and what is behind it, those at ``places`` (B, Q) and all behind."""
        kept = gather_tokens(values, places.to(values.device))
        return torch.cat([kept, values[:, values.shape[1] - self.tail :]], 1) if self.tail else kept

    def override(self, family: Family, layer: int, hidden: Tensor) -> dict[str, Any]:
        """Mask and rotary embeddings of a layer whose input is ``hidden`` (B, Q, D)."""
        tables, kind = self.tables(layer), family.layer_kind(layer)
        key = (*map(id, tables), kind, self.calibration == "restore" and layer == 0)
        if key not in self._overrides:
            behind = self.padded and self.new.shape[1] > 0
            padded = self.calibrated or behind or any(table.padded for table in tables)
            keys, ids = self.keys(tables), self.position_ids(tables, hidden.shape[1])
            mask = family.layer_mask(kind, keys, hidden.shape[1], padded, hidden.dtype)
            if self.calibrated:
                assert mask is not None  # eager and sdpa have one for padded rows
                bias = key_bias(self.calibration, prompt_of(self), keys, layer == 0)
                if self.calibration == "restore" and self.segments:
                    exact = family.rotary(kind, hidden[:, :0].float(), ids)
                    read = torch.arange(hidden.shape[1], device=bias.device) < tables[-1].length
                    bias = bias + distance_bias(*exact, hidden.shape[1]).to(bias.device) * read[:, None]
                mask = biased(mask, bias.to(mask.device), hidden.dtype)
            self._overrides[key] = {"attention_mask": mask, "position_embeddings": family.rotary(kind, hidden, ids)}
        return self._overrides[key]

    @property
    def calibrated(self) -> bool:
        """Whether keys weigh differently, in every layer."""
        return self.calibration != "none"

    @property
    def mask_bytes(self) -> int:
        """Bytes of the masks of numbers that calibration made for this step."""
        masks = [override["attention_mask"] for override in self._overrides.values()]
        return sum(mask.nbytes for mask in masks) if self.calibrated else 0


def prompt_of(step: Step) -> Prompt:
    """The prompt of a step."""
    assert step.prompt is not None  # a step is about one
    return step.prompt


@dataclass
class Call:
    """One call of the multimodal model, or of its language model alone: ``owner`` is the module that was called.

    ``mask`` as it was given; ``numbered``: position ids were given, too; ``images``, by kind, and ``input_ids`` of a
    prompt with images; ``drafts``: how many tokens at its end are guesses at the answer (assisted decoding).
    """

    owner: nn.Module
    mask: Any = None
    numbered: bool = False
    input_ids: Tensor | None = None
    images: dict[str, EncodedImages] = field(default_factory=dict)
    drafts: int = 0
    step: Step | None = None


current_call: ContextVar[Call | None] = ContextVar("nuwa_call", default=None)
"""The call at work in this thread."""
busy: ContextVar[tuple[nn.Module, ...]] = ContextVar("nuwa_busy", default=())
"""The language models about whose tokens methods of this thread are just deciding."""


@contextmanager
def deciding(family: Family) -> Iterator[None]:
    """While it is open, a method decides about tokens of ``family``; calls of another model are calls of their own."""
    call, models = current_call.set(None), busy.set((*busy.get(), family.language_model))
    try:
        yield
    finally:
        busy.reset(models)
        current_call.reset(call)
