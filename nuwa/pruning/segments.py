"""Which tokens of a prompt are still there, from which layer on, and under which position ids. Pure bookkeeping.

Shape letters: B rows (prompts), L tokens, I images of a row, C axes of the position ids (1, or 3 for M-RoPE).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from nuwa.pruning.coordinates import Coordinates
from nuwa.pruning.layout import ImageLayout
from nuwa.pruning.masks import gather_tokens, left_pack
from nuwa.pruning.positions import median_ids, remap
from nuwa.pruning.schedules import Schedule


@dataclass
class ImagePlan:
    """What was decided for one image before the LLM.

    ``keep`` (K,): tokens that enter the LLM, in the order in which it sees them, followers among them; None: all.
    ``members`` (n_tokens,): the token that each one went into, its own for one that stays as it was, -1 for one that is
    gone; ``sizes`` (n_tokens,): how many tokens a kept one stands for. Both are None where the vision stage kept all.
    ``coordinates``: what stays in any case, by ``scores`` (n_tokens,) or, where these are None, by position; ``added``
    of them join ``keep`` when the prompt is known.
    """

    id: str
    layout: ImageLayout
    schedule: Schedule
    keep: Tensor | None = None
    members: Tensor | None = None
    sizes: Tensor | None = None
    extras: dict[str, Tensor] = field(default_factory=dict)
    coordinates: Coordinates | None = None
    scores: Tensor | None = None
    added: int = 0

    def stages(self) -> dict[int, int]:
        """Pruning layers in the LLM, and the tokens (patches) that stay there."""
        entering = self.layout.patches
        if self.keep is not None:
            entering = int((self.layout.source[self.keep] >= 0).sum()) + self.added
        return self.schedule.stages(entering)


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


@dataclass
class Prompt:
    """An unpruned prompt: the frame that position strategies and results refer to, on the CPU.

    ``whole`` is the prompt as a segment; ``rows[row][ordinal]`` the plan of each image; ``spans`` (2, C, B, I) the
    smallest and largest position id of each image; ``expanded`` how many rows share a prompt (beams); ``before`` what
    the layers have cached of the conversation that it continues, by layer.
    """

    whole: Segment
    rows: list[list[ImagePlan]]
    spans: Tensor
    expanded: int
    before: Sequence[Segment] = ()

    @property
    def images(self) -> int:
        """The largest number of images in a row."""
        return self.spans.shape[-1]

    @property
    def coordinates(self) -> Coordinates | None:
        """What stays in any case, the same of all images."""
        return next((plan.coordinates for row in self.rows for plan in row if plan.coordinates is not None), None)

    def stages(self) -> dict[int, Tensor]:
        """Pruning layers in the LLM, and the (B, I) visual tokens (patches) of each image that stay there."""
        counts = {}
        for layer in sorted({layer for row in self.rows for plan in row for layer, _ in plan.schedule.llm}):
            rows = [[plan.stages().get(layer, plan.layout.patches) for plan in row] for row in self.rows]
            counts[layer] = pad_sequence([torch.tensor(row, dtype=torch.long) for row in rows], batch_first=True)
        return counts

    def narrow(
        self,
        segment: Segment,
        keep: Tensor,
        lengths: list[int],
        start: int,
        strategy: str,
        order: Tensor | None = None,
        members: Tensor | None = None,
    ) -> tuple[Segment, Tensor]:
        """What goes on from layer ``start``: tokens ``keep`` (B, L) bool of a segment, ``lengths`` (B,) a row.

        ``order`` (B, L): sort key of the tokens, as they stand by default. ``members`` (B, L): see `Segment.merge`.
        Returns the narrower segment and the places (B, P) of its tokens in the wider one.
        """
        segment = segment if members is None else segment.merge(members)
        places = left_pack(keep, order, max(lengths))
        lasting = {name: x for name, x in segment.columns.items() if name != "ids"}
        part = replace(segment, columns=lasting).take(places, gather_tokens(keep, places), lengths)
        stands, device = part.original, part.valid.device
        if strategy == "median":
            medians = median_ids(self.whole.original.to(device), part.owner)
            stands = medians.gather(-1, part.index.expand(stands.shape))
        spans, after = self.spans.to(device), self.whole.next_id.to(device)
        ids, next_id = remap(strategy, stands, part.image, part.valid, spans, after)
        if strategy == "perc" and self.before:
            first = at_layer(self.before, start).next_id.to(device)
            ids, next_id = ids + first[..., None], next_id + first
        return replace(part, start=start, columns=part.columns | {"ids": ids}, next_id=next_id), places

    def choose_rows(self, rows: Tensor) -> Prompt:
        """Some of the rows (M,), in any order and number."""
        whole, plans = self.whole.choose_rows(rows, self.whole.length), [self.rows[row] for row in rows.tolist()]
        return replace(self, whole=whole, rows=plans, spans=self.spans[:, :, rows], expanded=1)

    def is_whole_prompt(self, segment: Segment) -> bool:
        """Whether every token of a segment stands where it stood: a row can be repacked though the longest is not."""
        whole = self.whole
        if segment.lengths != whole.lengths or segment.length != whole.length:
            return False
        here, there = (table.index.masked_fill(~table.valid, -1) for table in (segment, whole))
        return torch.equal(here, there.to(here.device))

    def restore(self, segment: Segment, hidden: Tensor) -> Tensor:
        """Put the states (B, P, D) of a segment's last P tokens back into their places (B, L, D); others get zeros.

        The last token of a prompt, if it was dropped, gets the state of the last one that stayed: generation goes on
        from there.
        """
        valid, index = (values[:, -hidden.shape[1] :] for values in (segment.valid, segment.index))
        length, width = self.whole.length, hidden.shape[-1]
        place = index.masked_fill(~valid, length) if segment.padded else index
        place = place[..., None].expand(-1, -1, width)
        full = hidden.new_zeros(len(hidden), length + 1, width).scatter(1, place, hidden)
        ends = self.whole.index.masked_fill(~self.whole.valid, -1).amax(1).to(hidden.device)
        return full.scatter(1, ends[:, None, None].expand(-1, 1, width), hidden[:, -1:])[:, :length]
