"""Pictures show the cells that stayed and mark the pillars."""

import torch
from PIL import Image, ImageColor

from nuwa.report.pictures import CAPTION, KEPT, PILLAR, draw_stages, pillar_tokens


def test_kept_cells_keep_their_colour():
    sheet = draw_stages(Image.new("RGB", (8, 8), "green"), (2, 2), [(0, [0, 3]), (2, [3])], pillars=[3])
    cell = 168
    assert sheet.size == (2 * 336 + 8, 336 + CAPTION)
    center = {token: (cell // 2 + cell * (token % 2), CAPTION + cell // 2 + cell * (token // 2)) for token in range(4)}
    green = ImageColor.getrgb("green")
    assert [sheet.getpixel(center[token]) == green for token in range(4)] == [True, False, False, True]
    assert sheet.getpixel((0, CAPTION + 50)) == ImageColor.getrgb(KEPT)
    assert sheet.getpixel((cell, CAPTION + cell + 50)) == ImageColor.getrgb(PILLAR)


def test_pillars_of_all_or_of_kept_tokens():
    assert pillar_tokens({"pillar": torch.tensor([[True, False, True]])}, [7, 8, 9]) == [7, 9]
    assert pillar_tokens({"pillar": torch.tensor([False, True, False, True])}, [1, 2]) == [1, 3]
    assert pillar_tokens({}, [1]) == []
