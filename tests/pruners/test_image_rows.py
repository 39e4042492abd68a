"""The table of images: tokens go in and come back, whatever prompts share a batch."""

import torch
from helpers.golden_cases import noise, prompt, stack

from nuwa.pruners.image_rows import ImageRows, unit_frame
from nuwa.pruning.layout import ImageLayout, VisionView


def batch():
    """A prompt of two images (3 and 5 tokens) and a shorter one of one (4), which is padded."""
    first = prompt(2, 3, 1, 5, 4, ids=(("a", "b"),))
    return stack([first, prompt(1, 4, 2, ids=(("c",),))])


def test_each_image_has_a_row():
    context = batch()
    rows = ImageRows.of(context)
    found = [place[there].tolist() for place, there in zip(rows.place, rows.there, strict=True)]
    assert found == [[2, 3, 4], [6, 7, 8, 9, 10], [9, 10, 11, 12], []]


def test_values_come_back_to_their_places():
    context, values = batch(), noise(2, 15, 3)
    rows, elsewhere = ImageRows.of(context), noise(2, 15, 3, seed=1)
    back = rows.spread(rows.gather(values), elsewhere)
    assert torch.equal(back, torch.where(context.visual[..., None], values, elsewhere))
    assert torch.equal(rows.mark(torch.ones_like(rows.there)), context.visual)
    first = torch.zeros_like(rows.there)
    first[:, 0] = True
    assert rows.mark(first).nonzero().tolist() == [[0, 2], [0, 6], [1, 9]]


def test_views_of_an_image_lie_upon_each_other():
    """A whole image of 1 x 2 tokens and its tiles, 2 x 4: corners are as far apart in both."""
    views = VisionView((1, 2), torch.tensor([0, 1])), VisionView((2, 4), torch.tensor([2, 3, 4, 5, 6, 7, 8, -1]))
    frame = unit_frame(ImageLayout(9, torch.arange(9), views))
    expected = [(0, 0), (0, 1 / 5**0.5), *((row / 20**0.5, column / 20**0.5) for row in (0, 1) for column in range(4))]
    torch.testing.assert_close(frame, torch.tensor(expected[:-1]))
    doubled = unit_frame(ImageLayout.single((2, 3)), unit=2)
    torch.testing.assert_close(doubled, torch.tensor([[0.0, float(i)] for i in range(6)]) / 52**0.5)
