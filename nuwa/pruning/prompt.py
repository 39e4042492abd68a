"""A prompt with images: what was decided for each before the LLM, and what goes on from layer to layer.

Shape letters: B rows (prompts), L tokens, P of those that are left, I images of a row, C axes of the position ids.
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
from nuwa.pruning.segments import Segment, at_layer


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
