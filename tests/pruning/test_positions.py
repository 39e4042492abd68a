"""Position strategies: hand-made cases, exactness on large ids, M-RoPE axes, padding and several images."""

import math
import statistics

import pytest
import torch

from nuwa.pruning.positions import STRATEGIES, median_ids, remap


def row(ids, image, padding=0):
    """One row on one axis, left-padded: ids (1, 1, L), image and valid (1, L)."""
    ids, image = [0] * padding + ids, [-1] * padding + image
    valid = torch.arange(len(ids))[None] >= padding
    return torch.tensor(ids).view(1, 1, -1), torch.tensor([image]), valid


def spans(*ends):
    """(2, 1, 1, I) from (smallest, largest) pairs."""
    return torch.tensor(ends).T.reshape(2, 1, 1, -1)


# Text 0-1, image 2-10, text 11, image 12-20, text 21; 3 and 1 tokens stay.
KEPT, IMAGE = [0, 1, 3, 6, 8, 11, 17, 21], [-1, -1, 0, 0, 0, -1, 1, -1]
SPANS, NEXT = spans((2, 10), (12, 20)), torch.tensor([[22]])


@pytest.mark.parametrize(
    ("strategy", "expected", "following"),
    [
        ("perc", [0, 1, 2, 3, 4, 5, 6, 7], 8),
        ("pesp", KEPT, 22),
        # First image: 3 -> 2, 6 -> 2 + ceil(4 * 8 / 6) = 8, 8 -> 10; second: its only token -> 12.
        ("rpme", [0, 1, 2, 8, 10, 11, 12, 21], 22),
        ("rpme_1d", [0, 1, 2, 8, 10, 11, 12, 21], 22),
        ("median", KEPT, 22),  # of which the caller has made medians already
    ],
)
@pytest.mark.parametrize("padding", [0, 3])
def test_two_images(strategy, expected, following, padding):
    ids, image, valid = row(KEPT, IMAGE, padding)
    new, next_id = remap(strategy, ids, image, valid, SPANS, NEXT)
    assert new[0, 0].tolist() == [0] * padding + expected
    assert next_id.tolist() == [[following]]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_batch_equals_rows(strategy):
    rows = [row(KEPT, IMAGE, 2), row(list(range(10)), [-1] * 10), row([0, 4, 9, 10], [-1, 0, 0, -1], 6)]
    # The second row has no image at all, the third one only: their spans hold anything.
    ends = [SPANS, spans((0, 0), (0, 0)), spans((1, 9), (7, 3))]
    nexts = [22, 10, 11]
    together = remap(
        strategy,
        torch.cat([r[0] for r in rows], 1),
        torch.cat([r[1] for r in rows]),
        torch.cat([r[2] for r in rows]),
        torch.cat(ends, 2),
        torch.tensor([nexts]),
    )
    for i, (ids, image, valid) in enumerate(rows):
        alone = remap(strategy, ids, image, valid, ends[i], torch.tensor([[nexts[i]]]))
        assert torch.equal(together[0][:, i : i + 1], alone[0])
        assert torch.equal(together[1][:, i : i + 1], alone[1])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_text_only_rows_without_images(strategy):
    ids, image, valid = row([0, 1, 2], [-1, -1, -1], 1)
    new, next_id = remap(strategy, ids, image, valid, torch.zeros(2, 1, 1, 0, dtype=torch.long), torch.tensor([[3]]))
    assert new[0, 0].tolist() == [0, 0, 1, 2]
    assert next_id.item() == 3


def test_keep_all_changes_nothing():
    ids, image, valid = row(list(range(12)), [-1, -1] + [0] * 8 + [-1, -1])
    for strategy in STRATEGIES:
        new, next_id = remap(strategy, ids, image, valid, spans((2, 9)), torch.tensor([[12]]))
        assert torch.equal(new, ids)
        assert next_id.item() == 12


def test_rpme_is_exact_for_large_ids():
    # 2^31 * 2^31 needs all bits of an int64; floating point would be off by thousands.
    start, end, kept = 7, 2**31 - 5, [100, 2**30 + 1, 2**31 - 9]
    ids, image, valid = row(kept, [0, 0, 0])
    new, _ = remap("rpme", ids, image, valid, spans((start, end)), torch.tensor([[end + 1]]))
    expected = [-(-(p - start) * (end - start) // (kept[-1] - start)) + start for p in kept]
    assert new[0, 0].tolist() == [start, *expected[1:]]


def test_rpme_follows_ids_not_sequence_order():
    # VisionZip puts merged tokens last: the largest id ends the span wherever it stands.
    ids, image, valid = row([4, 9, 1, 6], [0, 0, 0, 0])
    new, _ = remap("rpme", ids, image, valid, spans((0, 19)), torch.tensor([[20]]))
    assert new[0, 0].tolist() == [math.ceil(4 * 19 / 9), 19, 0, math.ceil(6 * 19 / 9)]


def mrope_row():
    """Text 0-1, an image of one frame, 3 x 4 tokens at (2, 2..4, 2..5), of which four stay, text from 6 on."""
    places = [(2, 3, 3), (2, 3, 4), (2, 4, 3), (2, 4, 2)]
    kept = torch.tensor([(0, 0, 0), (1, 1, 1), *places, (6, 6, 6)]).T[:, None]
    image = torch.tensor([[-1, -1, 0, 0, 0, 0, -1]])
    ends = torch.tensor([[2, 2, 2], [2, 4, 5]]).view(2, 3, 1, 1)
    return kept, image, torch.ones_like(image, dtype=torch.bool), ends, torch.full((3, 1), 7)


def test_mrope_perc_shares_one_rank():
    new, next_id = remap("perc", *mrope_row())
    assert new[:, 0].tolist() == [list(range(7))] * 3
    assert next_id.tolist() == [[7]] * 3


def test_mrope_rpme_stretches_each_axis():
    new, next_id = remap("rpme", *mrope_row())
    frames, heights, widths = new[:, 0].tolist()
    assert frames == [0, 1, 2, 2, 2, 2, 6]
    assert heights == [0, 1, 2, 2, 4, 4, 6]  # rows 3, 4 -> the ends 2, 4
    assert widths == [0, 1, 4, 5, 4, 2, 6]  # columns 2, 3, 4 -> 2, 2 + ceil(1 * 3 / 2), 5
    assert next_id.tolist() == [[7]] * 3


def test_mrope_rpme_1d_moves_tokens_along_the_rows():
    new, next_id = remap("rpme_1d", *mrope_row())
    # Cells 5, 6, 9, 8 of 12: 5 is the first, 6 -> ceil(6 * 11 / 9) = 8, 9 -> 11, 8 -> ceil(8 * 11 / 9) = 10.
    cells = [(2 + cell // 4, 2 + cell % 4) for cell in (0, 8, 11, 10)]
    frames, heights, widths = new[:, 0].tolist()
    assert frames == [0, 1, 2, 2, 2, 2, 6]
    assert list(zip(heights, widths, strict=True)) == [(0, 0), (1, 1), *cells, (6, 6)]
    assert next_id.tolist() == [[7]] * 3


def test_mrope_keep_all_changes_nothing():
    rows, columns = torch.meshgrid(torch.arange(3), torch.arange(4), indexing="ij")
    places = torch.stack([torch.zeros_like(rows), rows, columns]).flatten(1) + 2
    kept = torch.cat([torch.arange(2).expand(3, 2), places, torch.full((3, 1), 6)], 1)[:, None]
    image = torch.tensor([[-1, -1, *[0] * 12, -1]])
    _, _, _, ends, next_id = mrope_row()
    for strategy in ("pesp", "rpme", "rpme_1d"):
        assert torch.equal(remap(strategy, kept, image, image > -2, ends, next_id)[0], kept)


def test_medians_are_those_of_the_standard_library():
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(0, 9, (3, 4, 25), generator=generator)
    owner = torch.randint(-1, 8, (4, 25), generator=generator)
    found = median_ids(ids, owner)
    for axis in range(3):
        for row in range(4):
            for place in range(25):
                members = [int(ids[axis, row, j]) for j in range(25) if owner[row, j] == place]
                expected = statistics.median_low(members) if members else int(ids[axis, row, place])
                assert found[axis, row, place] == expected


def test_unknown_strategy_names_the_key():
    ids, image, valid = row([0], [-1])
    with pytest.raises(
        ValueError, match=r"position\.strategy must be one of perc, pesp, rpme, rpme_1d, median, not 'native'"
    ):
        remap("native", ids, image, valid, spans((0, 0)), torch.tensor([[1]]))
