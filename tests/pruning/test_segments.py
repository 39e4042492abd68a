"""Prompts whose placeholders are not those of their images are refused, whatever numbers do divide."""

import pytest
import torch

from nuwa.pruning.entering import read_prompt
from nuwa.pruning.layout import ImageLayout
from nuwa.pruning.prompt import ImagePlan
from nuwa.pruning.schedules import Schedule


@pytest.mark.parametrize(
    ("counts", "images"),
    [((5,), 1), ((4, 5), 2), ((4, 4, 4), 2), ((2,), 1)],
    ids=["one too many", "one too many in the second row", "a row without its image", "too few"],
)
def test_other_placeholders_than_images_have_tokens_are_refused(counts, images):
    placeholders = torch.tensor([[False] * (6 - count) + [True] * count for count in counts])
    plans = [ImagePlan(str(i), ImageLayout.single((2, 2)), Schedule(4)) for i in range(images)]
    with pytest.raises(ValueError, match="do not match"):
        ids = torch.arange(6).expand(1, len(counts), 6)
        read_prompt({"image": placeholders}, torch.ones_like(placeholders), ids, {"image": plans})
