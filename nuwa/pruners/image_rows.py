"""The visual tokens of a batch as a table with one image a row, for methods that choose inside images.

Nothing here reads the device: a method that works on the table handles all images of all prompts at once.

Shape letters as in `contexts`; R rows of the table (B x I), n columns (the tokens of the largest image), C values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from nuwa.pruners.contexts import LLMContext
from nuwa.pruning.layout import ImageLayout, coordinates
from nuwa.pruning.masks import gather_tokens


@dataclass(frozen=True)
class ImageRows:
    """``place`` (R, n) of each image's tokens in its prompt, padded on the right; ``there`` (R, n) is False on padding.

    Prompts with fewer images than others have rows of padding alone. ``slot`` (B, L) is each visual token's index in
    the flattened table, -1 for other tokens.
    """

    place: Tensor
    there: Tensor
    slot: Tensor

    @classmethod
    def of(cls, context: LLMContext) -> ImageRows:
        """The table of what is left of a context's images."""
        image, images = context.image, max(map(len, context.ids))
        largest = max((layout.n_tokens for row in context.layouts for layout in row), default=image.shape[1])
        member = image[:, None] == torch.arange(images, device=image.device)[:, None]
        place = (~member).byte().argsort(dim=-1, stable=True)[..., :largest]
        rank = (member.cumsum(-1) - 1).gather(1, image.clamp(min=0)[:, None])[:, 0]
        row = torch.arange(len(image), device=image.device)[:, None] * images + image
        slot = torch.where(image >= 0, row * place.shape[-1] + rank, -1)
        return cls(place.flatten(0, 1), member.gather(-1, place).flatten(0, 1), slot)

    def gather(self, values: Tensor) -> Tensor:
        """Values (B, L) or (B, L, C) of a prompt's tokens as (R, n) or (R, n, C); padding gets any."""
        return gather_tokens(values.repeat_interleave(len(self.place) // len(values), 0), self.place)

    def spread(self, values: Tensor, otherwise: Tensor) -> Tensor:
        """Values (R, n) or (R, n, C) put back into ``otherwise`` (B, L) or (B, L, C)."""
        found = values.flatten(0, 1)[self.slot.clamp(min=0)]
        visual = self.slot >= 0
        return torch.where(visual if found.dim() == 2 else visual[..., None], found, otherwise)

    def mark(self, chosen: Tensor) -> Tensor:
        """Chosen tokens (R, n) bool of the table as tokens of the prompts: (B, L) bool."""
        return self.spread(chosen & self.there, torch.zeros_like(self.slot, dtype=torch.bool))

    def frame(self, context: LLMContext, unit: int = 1) -> Tensor:
        """`unit_frame` of every token of the table: (R, n, 2)."""
        images = len(self.place) // len(context.layouts)
        rows = [list(row) + [None] * (images - len(row)) for row in context.layouts]
        frames = [torch.zeros(1, 2) if layout is None else unit_frame(layout, unit) for row in rows for layout in row]
        table = pad_sequence(frames, batch_first=True).to(self.place.device, non_blocking=True)
        return gather_tokens(table, self.gather(context.token).clamp(0, table.shape[1] - 1))


def unit_frame(layout: ImageLayout, unit: int = 1) -> Tensor:
    """Row and column of an image's tokens, in diagonals of their view: (n_tokens, 2). Views lie upon each other.

    With a ``unit``, the tokens are the first cells of a grid that many times as wide and high.

    >>> unit_frame(ImageLayout.single((3, 4)))[-1].tolist()
    [0.4000000059604645, 0.6000000238418579]
    """
    frame = torch.zeros(layout.n_tokens, 2)
    for view in layout.views:
        there = view.tokens >= 0
        grid = (unit * view.grid[0], unit * view.grid[1])
        frame[view.tokens[there]] = coordinates(grid)[: len(there)][there] / math.hypot(*grid)
    return frame
