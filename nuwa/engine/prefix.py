"""Neighbouring rows that begin alike share their prefix: it runs through the layers once, then each row's suffix.

A prefix ends with the last token of a row's images. Prefixes are compared by embeddings and position ids, bit by bit,
so that no one has to say which rows belong together. They are shared up to the first layer at which tokens leave,
because what leaves may depend on the question.

Shape letters: B rows, L tokens of a row, P of the longest prefix, S of the longest suffix, M distinct prefixes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from nuwa.engine.arguments import with_cache
from nuwa.pruning.masks import gather_tokens
from nuwa.pruning.segments import Segment, model_ids


@dataclass
class Split:
    """A segment cut in two: P columns of prefixes, then S of suffixes, each padded on its left.

    ``columns`` (B, P + S) says which column each was; ``length`` is P; ``rows`` (M,) names a row for each distinct
    prefix, ``owners`` (B,) which of them each row has. ``hidden`` keeps what enters the layers to ``watch`` (in order)
    of the prefixes, (M, P, D); they end at the last of these layers.
    """

    segment: Segment
    columns: Tensor
    length: int
    rows: Tensor
    owners: Tensor
    watch: Sequence[int] = ()
    hidden: dict[int, Tensor] = field(default_factory=dict)

    @property
    def prefixes(self) -> Segment:
        """The distinct prefixes, as a segment of M rows."""
        return self.segment.choose_rows(self.rows, self.length)

    def prefix_inputs(self, inputs: Tensor) -> Tensor:
        """Rows (B, L, D) of the segment that was cut -> (M, P, D)."""
        return gather_tokens(inputs[self.rows], self.columns[self.rows, : self.length])

    def suffix_inputs(self, inputs: Tensor) -> Tensor:
        """Rows (B, L, D) of the segment that was cut -> (B, S, D)."""
        return gather_tokens(inputs, self.columns[:, self.length :])

    def note(self, layer: int, hidden: Tensor) -> None:
        """Keep what enters a layer of the prefixes, if it is watched.

        Raises:
            FirstStage: this was the last layer to watch.
        """
        if layer in self.watch:
            self.hidden[layer] = hidden
            if layer == self.watch[-1]:
                raise FirstStage

    def whole(self, layer: int, suffixes: Tensor) -> Tensor:
        """What enters a layer of which ``hidden`` is kept: prefixes and ``suffixes`` (B, S, D) -> (B, P + S, D)."""
        prefixes = self.hidden[layer]
        return torch.cat([prefixes[self.owners.to(prefixes.device)], suffixes], 1)


class FirstStage(Exception):
    """The prefixes have reached the layer at which the first tokens leave: their run is over."""


def split_prefixes(segment: Segment, inputs: Tensor) -> Split | None:
    """Cut a segment with embeddings ``inputs`` (B, L, D) where its images end.

    None where that saves nothing: no two neighbours begin alike, or a row has no image or nothing behind its images.
    """
    length, device = segment.length, inputs.device
    places = torch.arange(length, device=device)
    ends = torch.where(segment.image >= 0, places, -1).amax(1, keepdim=True) + 1
    if bool(((ends == 0) | (ends == length)).any()):
        return None
    starts = segment.valid.long().argmax(1, keepdim=True)
    head, tail = int((ends - starts).max()), int((length - ends).max())
    first, second = ends - head + places[:head], (length - tail + places[:tail]).expand(len(inputs), -1)
    valid = torch.cat([first >= starts, second >= ends], 1)
    columns = torch.cat([first.clamp(min=0), second], 1)
    cut = segment.take(columns, valid, segment.lengths)
    fresh = ~_like_the_row_before(cut.ids[..., :head], valid[:, :head], gather_tokens(inputs, columns[:, :head]))
    rows = fresh.nonzero()[:, 0]
    if len(rows) == len(inputs):
        return None
    return Split(cut, columns, head, rows, fresh.cumsum(0) - 1)


def layers_to_watch(stages: Iterable[int], looks_back: bool) -> list[int]:
    """The layers whose input pruning at the first of some stages asks for, that stage last; none without stages."""
    first = min(stages, default=None)
    return [] if first is None else sorted({0, first} | ({first - 1} if looks_back else set()))


def run_prefixes(language_model: nn.Module, split: Split, inputs: Tensor, cache: DynamicCache) -> None:
    """Fill an empty cache with the distinct prefixes of ``inputs`` (B, L, D), then give each row its own."""
    segment = split.prefixes
    with suppress(FirstStage):
        language_model(
            inputs_embeds=split.prefix_inputs(inputs),
            attention_mask=segment.valid.long(),
            position_ids=model_ids(segment.ids),
            use_cache=True,
            **with_cache(language_model, {}, cache),
        )
    cache.batch_select_indices(split.owners.cpu())


def _like_the_row_before(ids: Tensor, valid: Tensor, inputs: Tensor) -> Tensor:
    """Which prefixes (B,) equal their upper neighbour's: ids (C, B, P), valid (B, P), inputs (B, P, D)."""
    same = (inputs[1:] == inputs[:-1]).all(-1) & (ids[:, 1:] == ids[:, :-1]).all(0)
    alike = ((same | ~valid[1:]) & (valid[1:] == valid[:-1])).all(1)
    return torch.nn.functional.pad(alike, (1, 0))
