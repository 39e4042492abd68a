"""Which tokens of a prompt are still there, from which layer on, and under which position ids. Pure bookkeeping.

Shape letters: B rows (prompts), L tokens, I images of a row, C axes of the position ids (1, or 3 for M-RoPE).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from nuwa.pruning.budget import Schedule
from nuwa.pruning.layout import ImageLayout
from nuwa.pruning.masks import gather_tokens, left_pack
from nuwa.pruning.positions import remap


@dataclass
class ImagePlan:
    """What was decided for one image before the LLM.

    ``keep`` (K,): tokens that enter the LLM, in the order in which it sees them, newlines among them; None: all.
    ``members`` (n_tokens,): the token that each one went into, its own for one that stays as it was, -1 for one that is
    gone; ``sizes`` (n_tokens,): how many tokens a kept one stands for. Both are None where the vision stage kept all.
    """

    id: str
    layout: ImageLayout
    schedule: Schedule
    keep: Tensor | None = None
    members: Tensor | None = None
    sizes: Tensor | None = None
    extras: dict[str, Tensor] = field(default_factory=dict)


_COLUMNS = ("index", "image", "token", "original", "ids")
"""All that travels with a token: what `Segment.take` cuts."""


@dataclass
class Segment:
    """A table of the tokens that run through the layers from ``start`` on, rows left-padded to one length.

    ``lengths`` (B,): tokens of each row, known without reading a tensor; ``valid`` (B, L): False on padding. Columns:
    ``index`` (B, L): place in the unpruned prompt; ``image`` (B, L): ordinal of the row's image or -1; ``token``
    (B, L): index within that image or -1; ``original`` (C, B, L): position ids in the unpruned prompt; ``ids``
    (C, B, L): position ids in use. ``next_id`` (C, B): id of the first generated token.
    """

    start: int
    lengths: list[int]
    valid: Tensor
    index: Tensor
    image: Tensor
    token: Tensor
    original: Tensor
    ids: Tensor
    next_id: Tensor

    @property
    def padded(self) -> bool:
        """Whether any row is shorter than the others."""
        return min(self.lengths) < self.length

    @property
    def length(self) -> int:
        """Tokens per row, padding included."""
        return self.index.shape[1]

    def take(self, places: Tensor, valid: Tensor, lengths: list[int]) -> Segment:
        """The tokens at ``places`` (B, P) of every row, of which ``valid`` (B, P), ``lengths`` a row, are real."""
        columns = {name: getattr(self, name) for name in _COLUMNS}
        cut = {name: x.gather(-1, places.expand(*x.shape[:-1], -1)) for name, x in columns.items()}
        cut |= {name: cut[name].masked_fill(~valid, -1) for name in ("image", "token")}
        return replace(self, lengths=lengths, valid=valid, **cut)

    def choose_rows(self, rows: Tensor, length: int) -> Segment:
        """The first ``length`` tokens of some rows (M,)."""
        cut = {name: getattr(self, name)[..., rows, :length] for name in ("valid", *_COLUMNS)}
        return replace(self, lengths=cut["valid"].sum(1).tolist(), next_id=self.next_id[:, rows], **cut)


def model_ids(ids: Tensor) -> Tensor:
    """Position ids (C, B, L) as a language model takes them: (B, L) for one axis."""
    return ids[0] if ids.shape[0] == 1 else ids


@dataclass
class Prompt:
    """An unpruned prompt: the frame that position strategies and results refer to.

    ``whole`` is the prompt as a segment; ``rows[row][ordinal]`` the plan of each image; ``spans`` (2, C, B, I) the
    smallest and largest position id of each image; ``expanded`` how many rows share a prompt (beams); ``closed_by``
    (B, L) the place of the newline that closes each token's row of patches (a newline closes its own), -1 where none
    does; None if no image has newlines.
    """

    whole: Segment
    rows: list[list[ImagePlan]]
    spans: Tensor
    expanded: int
    closed_by: Tensor | None

    @property
    def images(self) -> int:
        """The largest number of images in a row."""
        return self.spans.shape[-1]

    def stages(self) -> dict[int, Tensor]:
        """Pruning layers in the LLM, and the (B, I) visual tokens (patches) of each image that stay there."""
        counts = {}
        for layer in sorted({layer for row in self.rows for plan in row for layer, _ in plan.schedule.llm}):
            rows = [[dict(plan.schedule.llm).get(layer, plan.layout.patches) for plan in row] for row in self.rows]
            counts[layer] = pad_sequence([torch.tensor(row, dtype=torch.long) for row in rows], batch_first=True)
        return counts

    def newlines(self, segment: Segment) -> tuple[Tensor, Tensor]:
        """``closed_by`` of a segment's tokens (B, L), and which of them are newlines (B, L) bool."""
        if self.closed_by is None:
            return torch.full_like(segment.index, -1), torch.zeros_like(segment.valid)
        closed_by = gather_tokens(self.closed_by, segment.index).masked_fill(~segment.valid, -1)
        return closed_by, (closed_by >= 0) & (closed_by == segment.index)

    def narrow(
        self,
        segment: Segment,
        keep: Tensor,
        lengths: list[int],
        start: int,
        strategy: str,
        order: Tensor | None = None,
    ) -> tuple[Segment, Tensor]:
        """What goes on from layer ``start``: tokens ``keep`` (B, L) bool of a segment, ``lengths`` (B,) a row.

        ``order`` (B, L): sort key of the tokens, as they stand by default. Returns the narrower segment and the places
        (B, P) of its tokens in the wider one.
        """
        if order is None:
            order = torch.arange(segment.length, device=keep.device).expand(keep.shape)
        places = left_pack(keep, order, max(lengths))
        part = segment.take(places, gather_tokens(keep, places), lengths)
        ids, next_id = remap(strategy, part.original, part.image, part.valid, self.spans, self.whole.next_id)
        return replace(part, start=start, ids=ids, next_id=next_id), places

    def is_whole_prompt(self, segment: Segment) -> bool:
        """Whether every token of a segment stands where it stood: a row can be repacked though the longest is not."""
        whole = self.whole
        return torch.equal(segment.valid, whole.valid) and torch.equal(
            segment.index[whole.valid], whole.index[whole.valid]
        )

    def restore(self, segment: Segment, hidden: Tensor) -> Tensor:
        """Put the states (B, P, D) of a segment's last P tokens back into their places (B, L, D); others get zeros.

        The last token of a prompt, if it was dropped, gets the state of the last one that stayed: generation goes on
        from there.
        """
        valid, index = (values[:, -hidden.shape[1] :] for values in (segment.valid, segment.index))
        rows, columns = valid.nonzero(as_tuple=True)
        full = hidden.new_zeros(*self.whole.index.shape, hidden.shape[-1])
        full = full.index_put((rows, index[rows, columns]), hidden[rows, columns])
        ends = self.whole.index.masked_fill(~self.whole.valid, -1).amax(1)
        return full.index_put((torch.arange(len(ends), device=ends.device), ends), hidden[:, -1])


def read_prompt(placeholders: Tensor, valid: Tensor, ids: Tensor, plans: Sequence[ImagePlan]) -> Prompt:
    """Describe an unpruned prompt: ``placeholders`` and ``valid`` (B, L) bool, position ids ``ids`` (C, B, L).

    ``plans`` are one per image, in prompt order. Rows may be repeated (beams, several samples per prompt): copies of a
    prompt follow each other and share images.

    Raises:
        ValueError: placeholders and images do not match.
    """
    member, device = placeholders & valid, valid.device
    rows, expanded = _deal_out(member.sum(1).tolist(), plans)
    image = torch.full(valid.shape, -1, device=device)
    token = image.clone()
    sizes = [(ordinal, plan.layout.n_tokens) for row in rows for ordinal, plan in enumerate(row)]
    image[member] = torch.cat([torch.full((size,), ordinal) for ordinal, size in sizes]).to(device)
    token[member] = torch.cat([torch.arange(size) for _, size in sizes]).to(device)
    index = torch.arange(valid.shape[1], device=device).expand(valid.shape)
    next_id = (ids.masked_fill(~valid, -1).amax((0, 2)) + 1).expand(ids.shape[0], -1)
    whole = Segment(0, valid.sum(1).tolist(), valid, index, image, token, ids, ids, next_id)
    mine = image[..., None] == torch.arange(max(map(len, rows)), device=device)
    lowest = ids[..., None].masked_fill(~mine, torch.iinfo(ids.dtype).max).amin(2)
    highest = ids[..., None].masked_fill(~mine, -1).amax(2)
    return Prompt(whole, rows, torch.stack([lowest, highest]), expanded, _closed_by(whole, rows))


def _deal_out(counts: Sequence[int], plans: Sequence[ImagePlan]) -> tuple[list[list[ImagePlan]], int]:
    """The plans of every row, which has one of ``counts`` placeholders, and how many copies of a prompt there are."""
    total = sum(plan.layout.n_tokens for plan in plans)
    expanded = sum(counts) // total or 1
    if expanded * total != sum(counts) or len(counts) % expanded:
        raise ValueError(f"{sum(counts)} image placeholders in the prompts do not match {total} image tokens")
    rows: list[list[ImagePlan]] = []
    queue = list(plans)
    for first in range(0, len(counts), expanded):
        mine: list[ImagePlan] = []
        while sum(plan.layout.n_tokens for plan in mine) < counts[first] and queue:
            mine.append(queue.pop(0))
        tokens = sum(plan.layout.n_tokens for plan in mine)
        if any(count != tokens for count in counts[first : first + expanded]):
            raise ValueError(f"prompt {first // expanded}: {counts[first]} image placeholders do not fit whole images")
        rows += [mine] * expanded
    return rows, expanded


def _closed_by(whole: Segment, rows: list[list[ImagePlan]]) -> Tensor | None:
    """`Prompt.closed_by` from the layouts of each row's images."""
    layouts = [plan.layout for row in rows for plan in row]
    if all(view.newlines is None for layout in layouts for view in layout.views):
        return None
    closed_by, member = torch.full_like(whole.index, -1), whole.image >= 0
    places, token = whole.index[member], whole.token[member]
    closing = torch.cat([layout.closed_by for layout in layouts]).to(token.device)
    starts = torch.arange(len(token), device=token.device) - token  # where the images begin among all their tokens
    closed_by[member] = torch.where(closing < 0, -1, places[(starts + closing).clamp(min=0)])
    return closed_by


def first_segment(prompt: Prompt, strategy: str) -> Segment:
    """What enters layer 0: text in its place, each image's kept tokens in the order its plan says."""
    whole = prompt.whole
    keep, order, lengths = whole.valid.clone(), whole.index.clone(), list(whole.lengths)
    for row, plans in enumerate(prompt.rows):
        for ordinal, plan in enumerate(plans):
            if plan.keep is None:
                continue
            mine = whole.image[row] == ordinal
            rank = torch.full((plan.layout.n_tokens,), -1, device=order.device)
            rank[plan.keep.to(order.device)] = torch.arange(len(plan.keep), device=order.device)
            rank = rank[whole.token[row, mine]]
            keep[row, mine] = rank >= 0
            order[row, mine] = whole.index[row, mine][0] + rank.clamp(min=0)
            lengths[row] -= plan.layout.n_tokens - len(plan.keep)
    return prompt.narrow(whole, keep, lengths, 0, strategy, order)[0]
