"""What the released Nüwa does with LLaVA-NeXT's tiles, its mistakes included (commit 175b7d5). Pure functions.

Shape letters: B rows (prompts), L tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nuwa.pruning.layout import Grid, ImageLayout, VisionView
from nuwa.pruning.segments import Prompt, Segment
from nuwa.pruning.tiling import Tiling


@dataclass(frozen=True)
class ReleasedTiling(Tiling):
    """The same number of tokens for every tile, and of the released mistakes those that are asked for."""

    swapped_tiles: bool
    misaligned_ids: bool
    all_newlines: bool

    def prepare_layout(self, layout: ImageLayout) -> ImageLayout:
        return swap_tiles(layout) if self.swapped_tiles else layout

    def split_budget(self, total: int, views: Sequence[VisionView]) -> list[int]:
        """The same number of tokens, rounded down, for every tile (the base view is one), padded or not.

        Fewer tokens than tiles, of which the release would keep none, are shared out by cells.
        """
        tiles = [view.tiles[0] * view.tiles[1] for view in views]
        if total < sum(tiles):
            return super().split_budget(total, views)
        return [min(total // sum(tiles) * count, len(view.tokens)) for count, view in zip(tiles, views, strict=True)]

    def close_rows(self, view: VisionView, cells: Tensor) -> Tensor:
        return view.closed(cells, self.all_newlines)

    def rewrite_prompt(self, prompt: Prompt, segment: Segment, strategy: str) -> tuple[Prompt, Segment]:
        return misalign(prompt, segment, strategy) if self.misaligned_ids else (prompt, segment)


def swap_tiles(layout: ImageLayout) -> ImageLayout:
    """Stitch tiles as if their grid were as wide as it is high, and cut padding off that.

    The release takes the (height, width) of a tiling for (width, height): of wide and tall images it sees a part in
    wrong order. Patches of it that are padding in truth take part in its choice, but have no token in the prompt.
    Where tokens belong to no one crop, as OneVision's, which may be interpolated, there are no tiles to stitch: the
    layout stays as it is.
    """
    if layout.crop is None or layout.size is None:
        return layout
    base, *tiled = layout.views
    return replace(layout, views=(base, *(_swapped(layout, layout.size, view, base.grid) for view in tiled)))


def _swapped(layout: ImageLayout, size: Grid, view: VisionView, crop: Grid) -> VisionView:
    wide, high = view.tiles
    cells = crop[0] * crop[1]
    rows = torch.arange(cells, cells * (1 + high * wide)).view(high, wide, *crop).transpose(1, 2)
    rows = _cut(rows.reshape(high * crop[0], wide * crop[1]), size)
    place = torch.full((cells * (1 + high * wide),), -1)
    patches = layout.source >= 0
    place[layout.source[patches]] = torch.arange(layout.n_tokens)[patches]
    tokens = place[rows]
    # a row closes with the newline of the real row that its first patch with a token is in
    first = tokens.gather(1, (tokens >= 0).long().argmax(1, keepdim=True))[:, 0]
    newlines = torch.where(first < 0, -1, layout.closed_by[first.clamp(min=0)])
    return VisionView((rows.shape[0], rows.shape[1]), tokens.flatten(), newlines, (high, wide), rows.flatten())


def _cut(rows: Tensor, size: Grid) -> Tensor:
    """Cut off the padding around an image of ``size`` (height, width) centred on a grid of rows."""
    height, width = rows.shape
    if size[1] * height > size[0] * width:
        padding = (height - int(round(size[0] * width / size[1], 7))) // 2
        return rows[padding : height - padding]
    padding = (width - int(round(size[1] * height / size[0], 7))) // 2
    return rows[:, padding : width - padding]


def misalign(prompt: Prompt, segment: Segment, strategy: str) -> tuple[Prompt, Segment]:
    """Forget newlines when ids and roles are given out, though they are there.

    Of an image with n patches and h newlines, interleaved, the first n slots get the patches' ids, counted without
    newlines, and count as visual; the last h count as text: they are never pruned, and their ids, like those of all
    text after them, go on from where the unpruned image ends.
    """
    _, newline = prompt.newlines(segment)
    image, token, original = segment.image.clone(), segment.token.clone(), segment.original.clone()
    spans = prompt.spans.clone()
    shift = torch.zeros(len(image), dtype=torch.long, device=image.device)
    for row, plans in enumerate(prompt.rows):
        for ordinal, plan in enumerate(plans):
            slots = (segment.image[row] == ordinal).nonzero()[:, 0]
            patches = slots[~newline[row, slots]]
            visual, rest = slots[: len(patches)], slots[len(patches) :]
            spans[:, :, row, ordinal] += shift[row]
            start = spans[0, :, row, ordinal, None]
            later = (segment.index[row] > segment.index[row, slots].max()) & (segment.image[row] != ordinal)
            original[:, row, visual] = start + _bare_index(plan.layout).to(token.device)[token[row, patches]]
            original[:, row, rest] = start + plan.layout.n_tokens + torch.arange(len(rest), device=token.device)
            original[:, row, later] += len(rest)
            image[row, rest] = token[row, rest] = -1
            shift[row] += len(rest)
    whole = replace(prompt.whole, next_id=prompt.whole.next_id + shift)
    prompt = replace(prompt, whole=whole, spans=spans, closed_by=None)
    segment = replace(segment, image=image, token=token, original=original)
    return prompt, prompt.narrow(segment, segment.valid, segment.lengths, 0, strategy)[0]


def _bare_index(layout: ImageLayout) -> Tensor:
    """Each token's index among the cells of all views, newlines not counted (-1 for them): (n_tokens,)."""
    tokens = torch.cat([view.tokens for view in layout.views])
    bare = torch.full((layout.n_tokens,), -1)
    bare[tokens[tokens >= 0]] = torch.arange(len(tokens))[tokens >= 0]
    return bare
