"""The group of each token of a prompt: system, vision, text, last. The only place that decides it. Pure functions.

Shape letters: B rows (prompts), L tokens.
"""

from __future__ import annotations

from torch import Tensor

GROUPS = ("system", "vision", "text", "last")
SYSTEM, VISION, TEXT, LAST = range(4)
NO_GROUP = -1
"""The group of what is no token."""


def token_groups(image: Tensor, valid: Tensor, answers: Tensor | None = None) -> Tensor:
    """The group of every token, a number of `GROUPS` or `NO_GROUP`: (B, L).

    ``vision``: every placeholder of an image, newlines between rows of patches included. ``last``: the last token of
    the prompt, from which the first word of the answer is predicted, and whatever of the answer stands behind it.
    ``system``: what comes before the first image; ``text``: the rest, the question above all. A prompt without an image
    is text and last.

    >>> import torch
    >>> token_groups(torch.tensor([[-1, 0, 0, -1, -1]]), torch.ones(1, 5, dtype=torch.bool))
    tensor([[0, 1, 1, 2, 3]])

    Args:
        image: (B, L) ordinal of the row's image a token belongs to, -1 for text and padding.
        valid: (B, L) False on padding.
        answers: (B,) tokens of an answer at the end of each row, none by default.
    """
    vision = image >= 0
    seen = vision.long().cumsum(1) > 0
    before = ~seen & vision.any(1, keepdim=True)
    remaining = valid.long().flip(1).cumsum(1).flip(1)  # valid tokens from here to the end of the row
    ending = 1 if answers is None else 1 + answers.to(valid.device)[:, None]
    groups = vision.new_full(vision.shape, TEXT, dtype=image.dtype)
    groups = groups.masked_fill(before, SYSTEM).masked_fill(vision, VISION)
    return groups.masked_fill(remaining <= ending, LAST).masked_fill(~valid, NO_GROUP)
