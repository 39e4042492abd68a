"""What has been read of a pruned conversation, prompts and answers. It lives on the cache and is copied with it.

The cache then tells its two lengths apart: outside the language model the length without pruning, by which ``generate``
cuts what has been read off a whole conversation; inside it what each layer really holds.

Shape letters: B rows (prompts), K cached tokens, C axes of the position ids.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

from nuwa.engine.guards import SessionError
from nuwa.pruning.prompt import Prompt
from nuwa.pruning.segments import Segment, at_layer


@dataclass
class Conversation:
    """``tables``: the tokens that the layers from each ``start`` on have cached, up to the end of the latest prompt.

    ``prompt`` is that prompt; ``length`` the tokens of a row so far, had none left. What came behind (an answer, more
    text) is in the cache only. ``inside``: the language model is at work on it. ``broken``: that was interrupted.
    """

    prompt: Prompt | None
    tables: list[Segment]
    length: int
    inside: bool = False
    broken: bool = False

    def check(self) -> None:
        """Refuse to go on with layers that hold different parts of a call.

        Raises:
            SessionError: a call was interrupted while it read.
        """
        if self.broken or self.inside:  # torch runs no hook behind an interrupt, so that nobody has left
            raise SessionError(
                "a call failed or was interrupted while it read into this cache, whose layers now hold different parts "
                "of it; start a new prompt, or go on with a copy of the cache from before"
            )

    def at(self, layer: int) -> Segment:
        """The table of a layer."""
        return at_layer(self.tables, layer)

    @property
    def smallest_image(self) -> int:
        """Tokens of the smallest image of the latest prompt, 1 where there is no prompt with images."""
        rows = () if self.prompt is None else self.prompt.rows
        return min((plan.layout.n_tokens for row in rows for plan in row), default=1)

    def behind(self, cache: Cache) -> int:
        """Tokens of a row that the cache holds behind the latest prompt."""
        layer = attending_layer(cache)
        return held(cache, layer) - self.at(layer).length

    def close(self, prompt: Prompt, segments: Sequence[Segment], length: int) -> None:
        """Take in a prompt of ``length`` tokens whose ``segments`` the layers have cached by now."""
        starts = sorted({table.start for table in (*self.tables, *segments)})
        offset = self.tables[0].image.max() + 1
        self.tables = [
            join_tables(self.at(start), at_layer(segments, start), start, self.length, offset) for start in starts
        ]
        self.prompt, self.length = prompt, self.length + length

    def shorten(self, count: int) -> None:
        """Forget the last ``count`` tokens of every row.

        Raises:
            SessionError: they are not all text.
        """
        whole = self.tables[0] if self.prompt is None else self.prompt.whole
        text = whole.valid[:, -count:] & (whole.image[:, -count:] < 0)
        if whole.length <= count or not bool(text.all()):
            raise SessionError(
                f"{count} tokens of this cache's latest prompt were to be cut off, but an image or padding is among "
                "them; start a new prompt"
            )
        self.tables = [cut_end(table, count) for table in self.tables]
        self.length -= count

    def choose_rows(self, rows: list[int]) -> None:
        """Go on with some of the rows, in another order or several times (beams, ``batch_select_indices``)."""
        prompt, copies = self.prompt, 1 if self.prompt is None else self.prompt.expanded
        if [row // copies for row in rows] == [row // copies for row in range(len(self.tables[0].valid))]:
            return  # copies of a prompt have changed places
        chosen = torch.tensor(rows, device=self.tables[0].valid.device)
        self.tables = [table.choose_rows(chosen, table.length) for table in self.tables]
        if prompt is not None:
            self.prompt = prompt.choose_rows(chosen.cpu())


def cut_end(table: Segment, count: int) -> Segment:
    """A table without the last ``count`` tokens of every row, which are text."""
    columns = {name: x[..., :-count] for name, x in table.columns.items()}
    lengths = [length - count for length in table.lengths]
    return Segment(table.start, lengths, table.valid[:, :-count], columns, table.next_id - count, table.owner)


def join_tables(table: Segment, segment: Segment, start: int, length: int, offset: Tensor) -> Segment:
    """A table with a segment behind it, whose places begin at ``length`` and whose images at number ``offset``."""
    image = segment.image + offset * (segment.image >= 0)
    columns = {"index": segment.index + length, "image": image, "token": segment.token, "size": segment.size}
    columns = {name: torch.cat([table.columns[name], x], -1) for name, x in columns.items()}
    lengths = [here + there for here, there in zip(table.lengths, segment.lengths, strict=True)]
    valid = torch.cat([table.valid, segment.valid], 1)
    return Segment(start, lengths, valid, columns, segment.next_id, segment.owner)


def text_table(start: int, valid: Tensor, first_id: Tensor) -> Segment:
    """Tokens ``valid`` (B, K) of text as a table; ``first_id`` (C, B) is the id of the first."""
    index = torch.arange(valid.shape[1], device=valid.device).expand(valid.shape)
    nothing, counts = torch.full_like(index, -1), valid.sum(1)
    columns = {"index": index, "image": nothing, "token": nothing, "size": torch.ones_like(index, dtype=torch.float)}
    return Segment(start, counts.tolist(), valid, columns, first_id + counts, index)


def read_text(cache: Cache, valid: Tensor, axes: int) -> Conversation:
    """The conversation that a cache of nothing but text holds, ``valid`` (B, K) of it, on ``axes`` axes."""
    table = text_table(0, valid, valid.new_zeros(axes, len(valid), dtype=torch.long))
    return Conversation(None, [table], valid.shape[1])


def take_in_text(conversation: Conversation, valid: Tensor) -> None:
    """Add to the tables what text ``valid`` (B, K) came behind them."""
    zero = torch.zeros((), dtype=torch.long, device=valid.device)
    texts = [text_table(table.start, valid, table.next_id) for table in conversation.tables]
    tables = zip(conversation.tables, texts, strict=True)
    conversation.tables = [join_tables(table, text, table.start, conversation.length, zero) for table, text in tables]
    conversation.length += valid.shape[1]


class PrunedCache(Cache):
    """What a cache becomes that holds a conversation."""

    conversation: Conversation

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens of a row: those that the layer holds inside the language model, those without pruning elsewhere."""
        length, conversation = super().get_seq_length(layer_idx), self.conversation
        if conversation.inside or not length:
            return length
        return length + conversation.length - conversation.at(max(layer_idx, attending_layer(self))).length

    def update(self, *args: Any, **kwargs: Any) -> Any:
        """As ever, inside a session.

        Raises:
            SessionError: the session has ended.
        """
        if not self.conversation.inside:
            raise SessionError(
                "this cache holds a pruned conversation, and the model is outside its session: go on inside "
                "nuwa.prune(...), which has to stay open until every generation (a streaming thread, too) has ended"
            )
        return super().update(*args, **kwargs)

    def crop(self, tokens_to_remove: int) -> None:
        """Remove tokens from the end: ``-n`` removes n, a positive number is the length to keep, without pruning.

        Raises:
            SessionError: an image would be cut.
        """
        length = self.get_seq_length()
        count = max(length - tokens_to_remove, 0) if tokens_to_remove > 0 else -tokens_to_remove
        if count >= length:
            self.reset()
            return
        into_prompt = count - self.conversation.behind(self)
        if into_prompt > 0:
            self.conversation.shorten(into_prompt)
        super().crop(-count)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Go on with the rows ``beam_idx`` (B,)."""
        super().reorder_cache(cast(Any, beam_idx))
        self.conversation.choose_rows(beam_idx.tolist())

    def batch_select_indices(self, indices: Tensor) -> None:
        """Go on with the rows ``indices`` (B,)."""
        super().batch_select_indices(indices)
        self.conversation.choose_rows(torch.as_tensor(indices).tolist())

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Go on with every row ``repeats`` times."""
        super().batch_repeat_interleave(repeats)
        batch = len(self.conversation.tables[0].valid)
        self.conversation.choose_rows([row for row in range(batch) for _ in range(repeats)])

    def reset(self) -> None:
        """Forget everything, the conversation as well."""
        super().reset()
        self.__class__ = type(self).__bases__[1]
        del self.conversation


@functools.cache
def _pruned(kind: Any) -> type[Cache]:
    return type(f"Pruned{kind.__name__}", (PrunedCache, kind), {})


def attach(cache: Cache, conversation: Conversation) -> None:
    """Let a conversation travel with a cache."""
    if not isinstance(cache, PrunedCache):
        cache.__class__ = _pruned(cast(Any, type(cache)))
    cast(PrunedCache, cache).conversation = conversation


def conversation_of(cache: Cache | None) -> Conversation | None:
    """The pruned conversation that a cache holds, if it holds one."""
    return cache.conversation if isinstance(cache, PrunedCache) else None


def attending_layer(cache: Cache) -> int:
    """The first layer that caches keys: in some models most layers have a state instead."""
    return next((i for i, layer in enumerate(cache.layers) if isinstance(layer, CacheLayerMixin)), 0)


def held(cache: Cache, layer: int = 0) -> int:
    """Tokens of a row that a layer really holds."""
    return int(Cache.get_seq_length(cache, layer))


def cached_length(cache: Cache | None) -> int:
    """Tokens of a row that a cache stands for, those that left included."""
    return 0 if cache is None else int(cache.get_seq_length())
