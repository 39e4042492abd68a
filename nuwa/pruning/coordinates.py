"""Tokens that always stay because of where they stand: implicit visual coordinates, and others to compare them with.

IVC-Prune (ICLR 2026; FireRedTeam/IVC-Prune, commit 03afd9c) finds that rotary embeddings turn some positions by nearly
nothing, or nearly a right angle, on average over frequencies, and that such tokens serve as coordinates, whatever they
show. Pure functions.

Shape letters: B rows, L tokens, C axes of the position ids, I images of a row, N tokens of an image, d head width.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from nuwa.pruning.layout import ImageLayout
from nuwa.pruning.selection import strongest, top_of_each_image

KINDS = ("ivc", "random", "grid")


@dataclass(frozen=True)
class Coordinates:
    """Of the tokens that a stage keeps of an image, ``share`` are those of a ``kind`` that the method has not chosen.

    They take part of its budget. Those that come first are kept in any case: the method chose them, or they are added.
    ``ivc``: positions that serve as coordinates, in turn by the cosine and by the sine. To compare them with:
    ``random`` ones, and ``grid``, evenly spread. ``frequencies`` (d / 2,) are the model's, for ``ivc``.

    Raises:
        ValueError: an unknown kind, or no share.
    """

    kind: str
    share: float = 0.1
    frequencies: Tensor | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"coordinates.kind={self.kind}: expected one of none, {', '.join(KINDS)}")
        if not 0 < self.share < 1:
            raise ValueError(f"coordinates.share={self.share}: expected a share in (0, 1)")

    def count(self, kept: int) -> int:
        """How many of ``kept`` tokens: one at least is left to the method.

        >>> Coordinates("grid", 0.3).count(20), Coordinates("grid", 0.9).count(2)
        (6, 1)
        """
        return max(0, min(round(self.share * kept), kept - 1))


def rotations(position_ids: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cosine and sine over all frequencies and axes, of ids (C, B, L) and frequencies (d / 2,): two (B, L).

    Every axis has all frequencies, as released. Axes are summed smallest first, so that the cells (a, b) and (b, a) of
    an image tie exactly.
    """
    angle = position_ids[..., None].float() * frequencies.float().to(position_ids.device)
    cosine, sine = (turn(angle).mean(-1).sort(dim=0).values.mean(0) for turn in (torch.cos, torch.sin))
    return cosine, sine


def coordinate_scores(position_ids: Tensor, image: Tensor, images: int, frequencies: Tensor) -> Tensor:
    """Which tokens of each image serve best as coordinates: ids (C, B, L), ordinals (B, L) -> (B, L), the best highest.

    The tokens with the largest cosine and with the largest sine take turns, the cosine first.
    """
    best = torch.full(image.shape, -torch.inf, device=image.device)
    for turn, score in enumerate(rotations(position_ids, frequencies.to(position_ids.device))):
        for ordinal in range(images):
            mine = image == ordinal
            rank = strongest(score.masked_fill(~mine, -torch.inf), score.shape[1]).argsort(dim=1)
            best = torch.where(mine, best.maximum(-(2.0 * rank + turn)), best)
    return best


def grid_scores(layout: ImageLayout) -> Tensor:
    """Which tokens of an image come first if ever more of them are spread evenly: (n_tokens,), the first highest.

    Every other row and column of what is left comes later.

    >>> grid_scores(ImageLayout.single((2, 4))).argsort(descending=True).tolist()
    [0, 2, 1, 3, 4, 6, 5, 7]
    """
    scores = torch.full((layout.n_tokens,), -torch.inf)
    for view in layout.views:
        cell = torch.arange(len(view.tokens))
        row, column = cell // view.grid[1], cell % view.grid[1]
        key, bits = torch.zeros_like(cell), max(view.grid).bit_length()
        for bit in range(bits):  # the lowest bits of a place decide first
            key = 4 * key + 2 * (row >> bit & 1) + (column >> bit & 1)
        scores[view.tokens] = -key.float()
    return scores


def add_best(keep: Tensor, score: Tensor, image: Tensor, count: Tensor) -> Tensor:
    """``keep`` (B, L) and the best ``count`` (B, I) other tokens of each image by ``score`` (B, L): (B, L) bool.

    >>> keep, image = torch.tensor([[True, False, False, True]]), torch.tensor([[0, 0, 0, -1]])
    >>> add_best(keep, torch.tensor([[3.0, 1.0, 2.0, 9.0]]), image, torch.tensor([[1]])).tolist()
    [[True, False, True, True]]
    """
    return keep | top_of_each_image(score, image.masked_fill(keep, -1), count)
