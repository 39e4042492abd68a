"""What later steps of a generation need to know about a pruned prompt."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

from nuwa.engine.calibration import key_bias
from nuwa.engine.prefix import Split
from nuwa.models.base import Family
from nuwa.pruners.base import LLMContext, LLMDecision
from nuwa.pruning.calibration import biased, distance_bias
from nuwa.pruning.masks import gather_tokens
from nuwa.pruning.segments import ImagePlan, Keys, Prompt, Segment

_STATE = "_nuwa_state"


@dataclass
class EncodedImages:
    """The plans of the images of one call, and what a prompt about them has decided in the LLM.

    ``decisions`` maps a layer to a decision and the places (B, L) in its frame of the tokens of ``input_ids`` (B, L): a
    prompt that continues ``input_ids`` keeps it, merged states included, so that decoding without a cache equals
    decoding with one.
    """

    plans: list[ImagePlan]
    input_ids: Tensor | None = None
    decisions: dict[int, tuple[LLMDecision, Tensor]] = field(default_factory=dict)
    asked: Tensor | None = None

    def asked_length(self, input_ids: Tensor) -> int:
        """The length of the first prompt about these images, if ``input_ids`` (B, L) continue it, or else their own."""
        length = input_ids.shape[1] if self.asked is None else self.asked.shape[1]
        if self.asked is None or not torch.equal(input_ids[:, :length], self.asked):
            self.asked = input_ids
        return self.asked.shape[1]

    def recall(self, context: LLMContext, input_ids: Tensor, segment: Segment) -> LLMDecision | None:
        """The earlier decision at a layer in a segment's frame, if ``input_ids`` continue the same prompt."""
        asked = self.input_ids
        if asked is None or context.layer not in self.decisions:
            return None
        length = asked.shape[1]
        if input_ids.shape[1] <= length or not torch.equal(input_ids[:, :length], asked):
            return None
        old, places = self.decisions[context.layer]
        place, known = gather_tokens(places, segment.index.clamp(max=length - 1)), segment.index < length
        keep = torch.where(known, gather_tokens(old.keep, place), True) & segment.valid
        hidden, order = old.hidden, old.order
        if hidden is not None:
            hidden = torch.where(known[..., None], gather_tokens(hidden, place), context.hidden)
        if order is not None:
            later = order.max() + 1 + torch.arange(segment.length, device=order.device)
            order = torch.where(known, gather_tokens(order, place), later)
        members = old.members
        if members is not None:
            columns, width = segment.columns_of(length), members.shape[1]
            moved = columns.new_full((len(columns), width + 1), -1)
            moved = moved.scatter(1, places.where(columns >= 0, width), columns)
            members = torch.where(known, gather_tokens(members, place), -1)
            members = torch.where(members < 0, -1, moved.gather(1, members.clamp(min=0)))
        return LLMDecision(keep, hidden, order, members)

    def remember(self, layer: int, input_ids: Tensor, segment: Segment, decision: LLMDecision) -> None:
        """Store a decision made in a segment's frame."""
        if self.input_ids is not input_ids:
            self.input_ids, self.decisions = input_ids, {}
        rows, columns = segment.valid.nonzero(as_tuple=True)
        places = segment.index.new_zeros(input_ids.shape)
        places[rows, segment.index[rows, columns]] = columns
        self.decisions[layer] = decision, places


@dataclass
class PrefillState:
    """A pruned prompt and the segments that ran through the layers. Lives on the cache.

    ``first`` is the first layer that caches keys: the length of its part is the cache's.
    """

    prompt: Prompt
    segments: list[Segment]
    first: int = 0

    def attach(self, cache: Cache) -> None:
        """Let the prompt's state travel with its cache, through copies, crops and interleaved generations."""
        setattr(cache, _STATE, self)

    def at(self, layer: int) -> Segment:
        """The segment that runs through a layer: the latest that begins at or before it."""
        return next(segment for segment in reversed(self.segments) if segment.start <= layer)

    @property
    def cached(self) -> Segment:
        """What the first layer that caches keys has of the prompt."""
        return self.at(self.first)


@dataclass
class Step:
    """One forward of the language model over a pruned prompt, or of the last ``queries`` of the tokens behind it.

    ``new`` (B, tokens behind the prompt) bool: False on padding, which is neither seen nor counted.
    ``stages`` maps the pruning layers of a prefill to the (B, I) tokens that stay there. ``overrides`` caches, per
    later segment and kind of layer, the mask and rotary embeddings that replace those that the model made.
    ``companions`` (B, P, ...) of the tokens in the layers, as the family gives them, merge as the tokens' states do,
    unless ``merges_companions`` is off.
    ``split``: its rows share prefixes, and only what stands behind these runs here. ``calibration`` as the session's.
    """

    state: PrefillState
    prefill: bool
    queries: int
    new: Tensor
    stages: dict[int, Tensor] = field(default_factory=dict)
    images: EncodedImages | None = None
    input_ids: Tensor | None = None
    overrides: dict[tuple[int, str, bool], dict[str, Any]] = field(default_factory=dict)
    companions: dict[str, Tensor] = field(default_factory=dict)
    merges_companions: bool = True
    previous: LLMContext | None = None
    first: LLMContext | None = None
    split: Split | None = None
    calibration: str = "none"

    @property
    def called_with(self) -> Segment:
        """The segment whose mask and ids the language model got: what entered it, and later what is cached first."""
        return self.state.segments[0] if self.prefill else self.state.cached

    def position_ids(self, segment: Segment) -> Tensor:
        """Position ids (C, B, Q) of this step's tokens."""
        if self.prefill:
            return segment.ids
        return segment.next_id[..., None] + self.new.cumsum(1)[:, -self.queries :] - 1

    def keys(self, segment: Segment) -> Keys:
        """What the queries of a layer of this segment may see."""
        return Keys(segment, self.new)

    def override(self, segment: Segment, family: Family, layer: int, hidden: Tensor) -> dict[str, Any]:
        """Mask and rotary embeddings of a layer of a segment."""
        calibrated, kind = self.calibration != "none", family.layer_kind(layer)
        key = segment.start, kind, self.calibration == "restore" and layer == 0
        if key not in self.overrides:
            queries, keys = segment.length if self.prefill else self.queries, self.keys(segment)
            padded = segment.padded or calibrated or not bool(self.new.all())
            mask, ids = family.layer_mask(kind, keys, queries, padded, hidden.dtype), self.position_ids(segment)
            if calibrated:
                assert mask is not None  # eager and sdpa have one for padded rows
                bias = key_bias(self.calibration, self.state.prompt, keys, layer == 0)
                if self.calibration == "restore" and self.images is not None and self.input_ids is not None:
                    read = segment.index < self.images.asked_length(self.input_ids)  # what follows is an answer
                    exact = family.rotary(kind, hidden[:, :0].float(), ids)
                    bias = bias + distance_bias(*exact, queries).to(bias.device) * read[..., None]
                mask = biased(mask, bias.to(mask.device), hidden.dtype)
            self.overrides[key] = {"attention_mask": mask, "position_embeddings": family.rotary(kind, hidden, ids)}
        return self.overrides[key]

    @property
    def mask_bytes(self) -> int:
        """Bytes of the masks of numbers that calibration made for this step."""
        masks = [override["attention_mask"] for override in self.overrides.values()]
        return sum(mask.nbytes for mask in masks) if self.calibration != "none" else 0


def cached_length(cache: Cache | None) -> int:
    """Tokens that the first layer which caches any has cached."""
    return 0 if cache is None else int(cache.get_seq_length())


def forget_cleared(cache: Cache | None) -> None:
    """Drop the prompt of a cache that has been cleared since."""
    if state_of(cache) is not None and not cached_length(cache):
        delattr(cache, _STATE)


def state_of(cache: Cache | None) -> PrefillState | None:
    """The pruned prompt that filled a cache, if one did."""
    return getattr(cache, _STATE, None)
