"""Which tokens of a prompt are still there, from which layer on, and under which position ids. Pure bookkeeping.

Shape letters: B rows (prompts), L tokens, C axes of the position ids (1, or 3 for M-RoPE).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

_EMPTY = {"image": -1, "token": -1, "group": -1, "follower": False}
"""What columns say of padding; the others hold anything there."""


@dataclass
class Segment:
    """A table of the tokens that run through the layers from ``start`` on, rows left-padded to one length.

    ``lengths`` (B,): tokens of each row, known without reading a tensor; ``valid`` (B, L): False on padding.
    ``next_id`` (C, B): id of the first token behind it. ``owner`` (B, L of the unpruned prompt): the place in it of the
    token that each one is part of by now, its own unless it was merged; -1: it is known to be gone. Whatever else
    travels with a token is one of the ``columns`` (..., B, L), and `take` cuts them all: those that are properties here
    and, where an image has any, ``follower`` (bool) and ``group``, as in `ImageLayout`.
    """

    start: int
    lengths: list[int]
    valid: Tensor
    columns: dict[str, Tensor]
    next_id: Tensor
    owner: Tensor

    @property
    def index(self) -> Tensor:
        """(B, L): place in the unpruned prompt."""
        return self.columns["index"]

    @property
    def image(self) -> Tensor:
        """(B, L): ordinal of the row's image or -1."""
        return self.columns["image"]

    @property
    def token(self) -> Tensor:
        """(B, L): index within the image or -1."""
        return self.columns["token"]

    @property
    def original(self) -> Tensor:
        """(C, B, L): position ids in the unpruned prompt."""
        return self.columns["original"]

    @property
    def ids(self) -> Tensor:
        """(C, B, L): position ids in use."""
        return self.columns["ids"]

    @property
    def size(self) -> Tensor:
        """(B, L) float: how many tokens each one stands for, 1 unless others were merged into it."""
        return self.columns["size"]

    @property
    def follower(self) -> Tensor | None:
        """(B, L) bool: tokens that no method chooses, which stay with their group; None where there are none."""
        return self.columns.get("follower")

    @property
    def padded(self) -> bool:
        """Whether any row is shorter than the others."""
        return min(self.lengths) < self.length

    @property
    def length(self) -> int:
        """Tokens per row, padding included."""
        return self.valid.shape[1]

    def take(self, places: Tensor, valid: Tensor, lengths: list[int]) -> Segment:
        """The tokens at ``places`` (B, P) of every row, of which ``valid`` (B, P), ``lengths`` a row, are real."""
        cut = {name: x.gather(-1, places.expand(*x.shape[:-1], -1)) for name, x in self.columns.items()}
        if min(lengths) < valid.shape[1]:
            cut |= {name: cut[name].masked_fill(~valid, empty) for name, empty in _EMPTY.items() if name in cut}
        return replace(self, lengths=lengths, valid=valid, columns=cut)

    def to(self, device: torch.device | None) -> Segment:
        """The table on a device."""
        columns = {name: x.to(device) for name, x in self.columns.items()}
        tensors = (x.to(device) for x in (self.next_id, self.owner))
        return Segment(self.start, self.lengths, self.valid.to(device), columns, *tensors)

    def choose_rows(self, rows: Tensor, length: int) -> Segment:
        """The first ``length`` tokens of some rows (M,)."""
        valid = self.valid[rows, :length]
        columns = {name: x[..., rows, :length] for name, x in self.columns.items()}
        owner = self.owner[rows]
        return Segment(self.start, valid.sum(1).tolist(), valid, columns, self.next_id[:, rows], owner)

    def columns_of(self, places: int) -> Tensor:
        """The column of each of the first ``places`` of the unpruned prompt, -1 for those that are not here: (B, P)."""
        column = torch.arange(self.length, device=self.index.device).expand(self.index.shape)
        index = self.index.where(self.valid & (self.index < places), places)
        return torch.full((len(index), places + 1), -1, device=index.device).scatter(1, index, column)[:, :places]

    def merge(self, members: Tensor) -> Segment:
        """The same tokens after each visual one went into the column ``members`` (B, L), -1 for those that are gone."""
        chosen = self.image >= 0 if self.follower is None else (self.image >= 0) & ~self.follower
        into, joins = members.clamp(min=0), chosen & (members >= 0)
        size = torch.zeros_like(self.size).scatter_add(1, into, self.size * joins)
        column = self.columns_of(self.owner.shape[1]).gather(1, self.owner.clamp(min=0))
        here = (self.owner >= 0) & (column >= 0)
        column = column.clamp(min=0)
        moved = torch.where(joins, self.index.gather(1, into), -1).gather(1, column)
        owner = torch.where(here & chosen.gather(1, column), moved, self.owner)
        return replace(self, columns=self.columns | {"size": size.where(size > 0, self.size)}, owner=owner)


@dataclass
class Keys:
    """What a layer's queries may see: the tokens of ``tables``, one after the other, and ``new`` (B, N) behind them.

    Earlier parts of a conversation come first. ``starts``: tokens of a row, had none left, before each table, and
    before the new ones.
    """

    tables: Sequence[Segment]
    new: Tensor
    starts: Sequence[int]

    @property
    def valid(self) -> Tensor:
        """(B, K): False on padding."""
        if len(self.tables) == 1 and not self.new.shape[1]:
            return self.tables[0].valid
        return torch.cat([*(table.valid for table in self.tables), self.new], 1)

    @property
    def image(self) -> Tensor:
        """(B, K): a number of its own for each image of a row, -1 for text."""
        numbers = [torch.full_like(self.new, -1, dtype=torch.long)]
        for table in reversed(self.tables):
            first = torch.cat(numbers, 1).amax() + 1 if len(numbers) > 1 else 0
            numbers.insert(0, torch.where(table.image < 0, -1, table.image + first))
        return torch.cat(numbers, 1)

    @property
    def size(self) -> Tensor:
        """(B, K) float: how many tokens each one stands for."""
        return torch.cat([*(table.size for table in self.tables), torch.ones_like(self.new, dtype=torch.float)], 1)

    @property
    def place(self) -> Tensor:
        """(B, K): place in the unpruned sequence."""
        behind = torch.arange(self.new.shape[1], device=self.new.device).expand(self.new.shape)
        found = [*(table.index for table in self.tables), behind]
        return torch.cat([index + start for index, start in zip(found, self.starts, strict=True)], 1)


def at_layer(tables: Sequence[Segment], layer: int) -> Segment:
    """The table of the tokens in a layer: the latest that begins at or before it."""
    return next(table for table in reversed(tables) if table.start <= layer)


def model_ids(ids: Tensor) -> Tensor:
    """Position ids (C, B, L) as a language model takes them: (B, L) for one axis."""
    return ids[0] if ids.shape[0] == 1 else ids
