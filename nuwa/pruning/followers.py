"""Tokens that no method chooses and no budget counts: each stays as long as any patch of its group does.

The newlines between rows of LLaVA-NeXT's tiles are such tokens, a row being a group. Others close their image, as the
newline behind a video does: they are of the group `CLOSING`, and always stay.

Shape letters: B rows (prompts), L tokens.
"""

from __future__ import annotations

from torch import Tensor

CLOSING = -2
"""The group of what closes an image."""


def add_followers(
    keep: Tensor, order: Tensor, follower: Tensor, group: Tensor, image: Tensor, place: Tensor, length: int
) -> tuple[Tensor, Tensor]:
    """``keep`` (B, L) bool and the sort key ``order`` (B, L) of patches and text -> with those of what follows them.

    A follower stands behind the last kept token of its group, wherever that goes. An image whose kept tokens do not
    rise has no groups any more: its followers leave. What closes an image stays behind all that is kept of it.

    >>> import torch
    >>> keep, follower = torch.tensor([[True, False, False, False]]), torch.tensor([[False, False, True, True]])
    >>> order, group = torch.arange(4)[None], torch.tensor([[0, 1, 0, 1]])
    >>> add_followers(keep, order, follower, group, torch.zeros(1, 4).long(), order, length=4)[0]
    tensor([[ True, False,  True, False]])

    Args:
        keep: what it says of followers is not read.
        order: non-negative, of every kept token.
        follower: (B, L) bool.
        group: (B, L), numbers in [0, length) that are unique in a row, -1 for what is in none, or `CLOSING`.
        image: (B, L) ordinal of the row's image a token belongs to.
        place: (B, L) in [0, length), where a token stood before any left.
    """
    keep = keep & ~follower
    grouped, closes = keep & (group >= 0), follower & (group == CLOSING)
    group, place = group.clamp(min=-1) + 1, place + 1  # 0 is what has none
    stays = follower & (_last_key(group, grouped, keep.long(), length) > 0)
    stays &= ~_fallen(image, place, grouped, order, length)
    behind = _last_key(group, grouped, order, length)
    behind = behind.where(~closes, _last_key(image + 1, keep, order, length).maximum(order))
    return keep | stays | closes, (2 * order).where(~follower, 2 * behind + 1)


def _last_key(group: Tensor, keep: Tensor, key: Tensor, length: int) -> Tensor:
    """(B, L): the highest key (B, L) among the kept tokens of a token's group, 0 where none is kept."""
    highest = key.new_zeros(len(group), length + 1)
    return highest.scatter_reduce(1, group, key * keep, "amax").gather(1, group)


def _fallen(image: Tensor, place: Tensor, grouped: Tensor, order: Tensor, length: int) -> Tensor:
    """(B, L) bool: tokens of images whose ``grouped`` (B, L) tokens, in their order, do not rise in the prompt."""
    by_order = order.argsort(dim=1, stable=True)
    by_image = by_order.gather(1, image.gather(1, by_order).argsort(dim=1, stable=True))
    # one image after the other, each in its order: a place must lie above all before it
    key = ((image * (length + 1) + place) * grouped).gather(1, by_image)
    falls = (key > 0) & (key < key.cummax(1).values)
    owner = image + 1
    counts = key.new_zeros(len(key), length + 2)
    return counts.scatter_add(1, owner.gather(1, by_image), falls.long()).gather(1, owner) > 0
