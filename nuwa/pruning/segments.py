"""Which tokens of a prompt are still there, from which layer on, and under which position ids. Pure bookkeeping.

Shape letters: B rows (prompts), L tokens, I images of a row, C axes of the position ids (1, or 3 for M-RoPE).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from nuwa.pruning.budget import Schedule
from nuwa.pruning.layout import ImageLayout
from nuwa.pruning.masks import gather_tokens, left_pack
from nuwa.pruning.positions import remap


@dataclass
class ImagePlan:
    """What was decided for one image before the LLM.

    ``keep`` (K,): tokens that enter the LLM, in the order in which it sees them, newlines among them; None: all.
    """

    id: str
    layout: ImageLayout
    schedule: Schedule
    keep: Tensor | None = None
    extras: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class Segment:
    """The tokens that run through the layers from ``start`` on, rows left-padded to one length.

    ``index`` (B, L): place in the unpruned prompt; ``valid`` (B, L): False on padding; ``image`` (B, L): ordinal of the
    row's image or -1; ``token`` (B, L): index within that image or -1; ``original`` (C, B, L): position ids in the
    unpruned prompt; ``ids`` (C, B, L): position ids in use; ``next_id`` (C, B): id of the first generated token.
    """

    start: int
    index: Tensor
    valid: Tensor
    image: Tensor
    token: Tensor
    original: Tensor
    ids: Tensor
    next_id: Tensor

    @cached_property
    def padded(self) -> bool:
        """Whether any row is shorter than the others."""
        return not bool(self.valid.all())

    @property
    def length(self) -> int:
        """Tokens per row, padding included."""
        return self.index.shape[1]

    def take(self, columns: Tensor, valid: Tensor) -> Segment:
        """Some columns (B, P) of every row, of which ``valid`` (B, P) are real tokens."""
        index, image, token = (gather_tokens(values, columns) for values in (self.index, self.image, self.token))
        original, ids = (torch.stack([gather_tokens(axis, columns) for axis in x]) for x in (self.original, self.ids))
        image, token = image.masked_fill(~valid, -1), token.masked_fill(~valid, -1)
        return replace(self, index=index, valid=valid, image=image, token=token, original=original, ids=ids)


def model_ids(ids: Tensor) -> Tensor:
    """Position ids (C, B, L) as a language model takes them: (B, L) for one axis."""
    return ids[0] if ids.shape[0] == 1 else ids


@dataclass
class Prompt:
    """An unpruned prompt: the frame that position strategies and results refer to.

    ``whole`` is the prompt as a segment; ``rows[row][ordinal]`` the plan of each image; ``spans`` (2, C, B, I) the
    smallest and largest position id of each image; ``expanded`` how many rows share a prompt (beams); ``line`` (B, L)
    the place of the newline that closes each token's row (a newline closes its own), -1 where none does.
    """

    whole: Segment
    rows: list[list[ImagePlan]]
    spans: Tensor
    expanded: int
    line: Tensor

    @property
    def images(self) -> int:
        """The largest number of images in a row."""
        return self.spans.shape[-1]

    def stages(self) -> dict[int, Tensor]:
        """Pruning layers in the LLM, and the (B, I) visual tokens (patches) of each image that stay there."""
        layers = {layer for row in self.rows for plan in row for layer, _ in plan.schedule.llm}
        counts = {}
        for layer in sorted(layers):
            counts[layer] = torch.zeros(len(self.rows), self.images, dtype=torch.long)
            for row, plans in enumerate(self.rows):
                for ordinal, plan in enumerate(plans):
                    counts[layer][row, ordinal] = dict(plan.schedule.llm).get(layer, plan.layout.patches)
        return counts

    def lines(self, segment: Segment) -> tuple[Tensor, Tensor]:
        """``line`` of a segment's tokens (B, L), and which of them are newlines (B, L) bool."""
        line = gather_tokens(self.line, segment.index).masked_fill(~segment.valid, -1)
        return line, (line >= 0) & (line == segment.index)

    def narrow(self, segment: Segment, rows: Tensor, keep: Tensor, start: int, strategy: str) -> Segment:
        """The part ``rows`` (B, P) of a segment, of which ``keep`` (B, L) are real tokens, from layer ``start`` on."""
        part = segment.take(rows, gather_tokens(keep, rows))
        ids, next_id = remap(strategy, part.original, part.image, part.valid, self.spans, self.whole.next_id)
        return replace(part, start=start, ids=ids, next_id=next_id)

    def in_place(self, segment: Segment) -> bool:
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


def assign_images(
    placeholders: Tensor, plans: Sequence[ImagePlan]
) -> tuple[Tensor, Tensor, list[list[ImagePlan]], int]:
    """Tell which image, and which of its tokens, every placeholder stands for.

    Rows may be repeated (beams, several samples per prompt): r copies of a prompt follow each other and share images.

    Args:
        placeholders: (B, L) bool.
        plans: one per image, in prompt order.

    Returns:
        image (B, L) and token (B, L) long, -1 elsewhere; the plans of every row; r.

    Raises:
        ValueError: placeholders and images do not match.
    """
    per_row = placeholders.sum(1).tolist()
    total = sum(plan.layout.n_tokens for plan in plans)
    expanded = sum(per_row) // total
    if expanded * total != sum(per_row) or len(per_row) % expanded:
        raise ValueError(f"{sum(per_row)} image placeholders in the prompts do not match {total} image tokens")
    image = torch.full(placeholders.shape, -1, device=placeholders.device)
    token = image.clone()
    rows: list[list[ImagePlan]] = []
    queue = list(plans)
    for first in range(0, len(per_row), expanded):
        mine: list[ImagePlan] = []
        while sum(plan.layout.n_tokens for plan in mine) < per_row[first] and queue:
            mine.append(queue.pop(0))
        sizes = torch.tensor([plan.layout.n_tokens for plan in mine], dtype=torch.long, device=image.device)
        if int(sizes.sum()) != per_row[first]:
            raise ValueError(f"prompt {first // expanded}: {per_row[first]} image placeholders do not fit whole images")
        ordinals = torch.arange(len(mine), device=image.device).repeat_interleave(sizes)
        starts = (sizes.cumsum(0) - sizes)[ordinals]
        for row in range(first, first + expanded):
            here = placeholders[row]
            image[row, here] = ordinals
            token[row, here] = torch.arange(per_row[first], device=image.device) - starts
            rows.append(mine)
    return image, token, rows, expanded


def read_prompt(placeholders: Tensor, valid: Tensor, ids: Tensor, plans: Sequence[ImagePlan]) -> Prompt:
    """Describe an unpruned prompt: ``placeholders`` and ``valid`` (B, L) bool, position ids ``ids`` (C, B, L)."""
    image, token, rows, expanded = assign_images(placeholders & valid, plans)
    length = valid.shape[1]
    index = torch.arange(length, device=valid.device).expand(valid.shape)
    following = ids.masked_fill(~valid, -1).amax((0, 2)) + 1
    next_id = following.expand(ids.shape[0], -1)
    whole = Segment(0, index, valid, image, token, ids, ids, next_id)
    images = max(len(row) for row in rows)
    member = image[..., None] == torch.arange(images, device=image.device)
    lowest = ids[..., None].masked_fill(~member, torch.iinfo(ids.dtype).max).amin(2)
    highest = ids[..., None].masked_fill(~member, -1).amax(2)
    return Prompt(whole, rows, torch.stack([lowest, highest]), expanded, _lines(whole, rows))


def _lines(whole: Segment, rows: list[list[ImagePlan]]) -> Tensor:
    """`Prompt.line` from the layouts of each row's images."""
    line = torch.full_like(whole.index, -1)
    for row, plans in enumerate(rows):
        for ordinal, plan in enumerate(plans):
            mine = whole.image[row] == ordinal
            places, closing = whole.index[row, mine], plan.layout.line.to(line.device)[whole.token[row, mine]]
            line[row, mine] = torch.where(closing < 0, -1, places[closing.clamp(min=0)])
    return line


def first_segment(prompt: Prompt, strategy: str) -> Segment:
    """What enters layer 0: text in its place, each image's kept tokens in the order its plan says."""
    whole = prompt.whole
    keep = whole.valid.clone()
    order = whole.index.clone()
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
    return prompt.narrow(whole, left_pack(keep, order), keep, 0, strategy)


def next_segment(
    prompt: Prompt, segment: Segment, keep: Tensor, start: int, strategy: str, order: Tensor | None = None
) -> tuple[Segment, Tensor]:
    """Drop tokens of a running segment: ``keep`` (B, L) bool. Returns the new segment and the rows (B, P) to gather.

    ``order`` (B, L): sort key of the tokens, as they stand by default.
    """
    if order is None:
        order = torch.arange(segment.length, device=keep.device).expand(keep.shape)
    rows = left_pack(keep, order)
    return prompt.narrow(segment, rows, keep, start, strategy), rows
