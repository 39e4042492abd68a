"""Followers: the newlines between the rows of images, which stay and where, written out by hand."""

import pytest
import torch

from nuwa.engine.llm import with_followers
from nuwa.pruners.base import LLMDecision
from nuwa.pruning.entering import read_prompt
from nuwa.pruning.layout import ImageLayout, VisionView
from nuwa.pruning.masks import left_pack
from nuwa.pruning.prompt import ImagePlan
from nuwa.pruning.schedules import Schedule

TWO_ROWS = ImageLayout(
    6,
    torch.tensor([0, 1, -1, 2, 3, -1]),
    (VisionView((2, 2), torch.tensor([0, 1, 3, 4])),),
    group=torch.tensor([0, 0, 0, 1, 1, 1]),
)
"""Patches 0 and 1, newline 2, patches 3 and 4, newline 5."""
LENGTH = 16
"""Padding 0, text 1, an image 2-7, text 8, an image 9-14, text 15."""


def left(patches, order=None):
    """Places in the prompt of what stays, in order, where some patches stay; text always does."""
    place = torch.arange(LENGTH)[None]
    placeholders, valid = ((place >= 2) & (place < 15) & (place != 8)), place > 0
    plans = [ImagePlan(name, TWO_ROWS, Schedule(4)) for name in "ab"]
    prompt = read_prompt({"image": placeholders}, valid, place[None] - 1, {"image": plans})
    segment = prompt.whole
    keep = torch.isin(segment.index, torch.tensor(patches)) | valid & ~placeholders
    decision = with_followers(prompt, segment, LLMDecision(keep, order=order))
    return left_pack(decision.keep, decision.order, int(decision.keep.sum()))[0].tolist()


IN_PLACE = torch.arange(LENGTH)[None]
LAST_FIRST = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 7, 8, 14, 13, 12, 11, 10, 9, 15]])
TEXT_LATER = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 7, 20, 9, 10, 11, 12, 13, 14, 21]])


@pytest.mark.parametrize("order", [None, IN_PLACE], ids=["no order", "in place"])
@pytest.mark.parametrize(
    ("patches", "expected"),
    [
        ([2, 3, 5, 6, 12], [1, 2, 3, 4, 5, 6, 7, 8, 12, 14, 15]),
        ([3, 9, 13], [1, 3, 4, 8, 9, 11, 13, 14, 15]),
        ([], [1, 8, 15]),
    ],
)
def test_a_newline_stays_as_long_as_a_token_of_its_row(order, patches, expected):
    assert left(patches, order) == expected


def test_an_image_out_of_order_has_no_rows_and_the_others_do():
    assert left([2, 6, 9, 12, 13], LAST_FIRST) == [1, 2, 4, 6, 7, 8, 13, 12, 9, 15]
    assert left([2, 6, 9], LAST_FIRST) == [1, 2, 4, 6, 7, 8, 9, 11, 15]  # a lone token is in order


def test_a_newline_follows_its_row_wherever_that_goes():
    assert left([3, 6, 9], TEXT_LATER) == [1, 3, 4, 6, 7, 9, 11, 8, 15]


@pytest.mark.parametrize("patches", [[], [4], [3, 4], [0, 1, 3], [4, 3], [1, 3, 0]], ids=str)
def test_before_the_llm_the_same_stay_as_inside(patches):
    order = torch.arange(LENGTH)[None].clone()
    for place, patch in enumerate(patches):
        order[0, 2 + patch] = 2 + place
    inside = [place - 2 for place in left([2 + patch for patch in patches], order) if 2 <= place < 8]
    assert TWO_ROWS.with_followers(torch.tensor(patches, dtype=torch.long)).tolist() == inside


def test_a_token_may_close_a_whole_image():
    """Four patches in one group, the last token follows: it stays while any of them does."""
    layout = ImageLayout(5, torch.tensor([0, 1, 2, 3, -1]), TWO_ROWS.views, group=torch.zeros(5, dtype=torch.long))
    assert layout.with_followers(torch.tensor([2])).tolist() == [2, 4]
    assert layout.with_followers(torch.tensor([], dtype=torch.long)).tolist() == []
