"""What a model family has to bring to the engine tests: LLaVA-1.5's."""

from __future__ import annotations

from functools import cache

import torch
from helpers.support import IMAGE, SIDE, VOCABULARY, batch, pixels, random_llava
from torch import Tensor

import nuwa

Cell = tuple[int, int, int | None]
"""View, row and column of a placeholder; the column of a newline is None."""

PROMPTS = {
    "first": (("image", 7), (0,)),
    "middle": ((5, "image", 3), (0,)),
    "two": ((3, "image", 4, "image", 6), (1, 2)),
    "last": ((6, "image"), (3,)),
}
"""Prompts: text lengths and images, and the numbers of the pictures."""


class Family:
    """LLaVA-1.5, and what others override."""

    name = "llava"
    shares_beginnings = True
    ratio = 0.34
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()

    @staticmethod
    @cache
    def model(attention: str = "sdpa", dtype: torch.dtype = torch.float32):
        return random_llava(attention, dtype)

    def cells(self, picture: int) -> list[Cell]:
        """What each placeholder of a picture stands for."""
        return [(0, row, column) for row in range(SIDE) for column in range(SIDE)]

    def pictures(self, *numbers: int) -> dict[str, Tensor]:
        """What the processor gives the model for pictures, padding of a batch included."""
        return {"pixel_values": pixels(4)[list(numbers)]}

    def features(self, *numbers: int) -> list[Tensor]:
        """The projected features (n_tokens, H) of pictures, from the model itself."""
        return list(self.model().model.get_image_features(**self.pictures(*numbers)).pooler_output)

    def finish(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Anything else that the model wants with a batch."""
        return inputs

    def ids(self, prompt: str) -> list[int]:
        """The token ids of a prompt of ``PROMPTS``: numbers are text lengths, filled with varying ids."""
        parts, numbers = PROMPTS[prompt]
        ids, pictures = [1], iter(numbers)
        for place, part in enumerate(parts):
            if part == "image":
                ids += self.picture_ids(next(pictures))
            else:
                ids += [8 + (7 * place + 3 * k) % (VOCABULARY - 8) for k in range(part)]
        return ids

    def picture_ids(self, picture: int) -> list[int]:
        """What stands in a prompt for a picture."""
        return [*self.before, *[IMAGE] * len(self.cells(picture)), *self.after]

    def inputs(self, *prompts: str, side: str = "left", numbered: bool = False) -> dict[str, Tensor]:
        """A padded batch; ``numbered`` position ids as `generate` makes them, not counting padding."""
        numbers = [number for prompt in prompts for number in PROMPTS[prompt][1]]
        inputs = batch(*map(self.ids, prompts), side=side) | self.pictures(*numbers)
        if numbered:
            inputs["position_ids"] = (inputs["attention_mask"].cumsum(1) - 1).clamp_min(0)
        return self.finish(inputs)

    def patches(self, picture: int) -> list[list[int]]:
        """Placeholders of the patches of each view of a picture, in raster order."""
        cells = self.cells(picture)
        views = sorted({view for view, _, _ in cells})
        return [[i for i, (v, _, column) in enumerate(cells) if v == view and column is not None] for view in views]

    def with_newlines(self, picture: int, patches: set[int]) -> list[int]:
        """Kept patches of a picture and the newlines of every row that still has one."""
        cells = self.cells(picture)
        rows = {cells[i][:2] for i in patches}
        return [i for i, (view, row, c) in enumerate(cells) if i in patches or (c is None and (view, row) in rows)]


@torch.no_grad()
def run(model, inputs, pruner=None, position="pesp", **options):
    """Logits of a forward, pruned or not."""
    if pruner is None:
        return model(**inputs, **options).logits
    with nuwa.prune(model, pruner, position):
        return model(**inputs, **options).logits


@torch.no_grad()
def generate(model, inputs, pruner=None, position="pesp", **options):
    """Greedy generation, eight tokens unless said otherwise, pruned or not."""
    arguments = {"max_new_tokens": 8, "do_sample": False, **inputs, **options}
    if pruner is None:
        return model.generate(**arguments)
    with nuwa.prune(model, pruner, position):
        return model.generate(**arguments)
