"""Plates: every number is read off the pixels again, and a picture is a function of its generator alone."""

import numpy as np
import pytest

from nuwa.scenes.plates import PLATE_KINDS, PLATES_SIZE, SCALES, ask_plates, draw_plates, held_out
from nuwa.scenes.scene import COLORS

GLYPHS = """
### .#. ### ### #.# ### ### ### ### ###
#.# ##. ..# ..# #.# #.. #.. ..# #.# #.#
#.# .#. ### ### ### ### ### ..# ### ###
#.# .#. #.. ..# ..# ..# #.# ..# #.# ..#
### ### ### ### ..# ### ### ..# ### ###
"""
PALETTE = np.array(list(COLORS.values())) / 255


def drawn(index, unseen=True):
    return draw_plates(np.random.default_rng([4, index, 7]), unseen)


def glyphs():
    """The digits by their pictures, as printed above."""
    rows = [row.split() for row in GLYPHS.split("\n")[1:-1]]
    return {tuple(row[digit] for row in rows): str(digit) for digit in range(10)}


def read(picture, size):
    """The number on a plate cut out of a picture: what is unlike the corner is ink; cells count from the middle."""
    ink, scale = np.abs(picture - picture[0, 0]).sum(-1) > 0.6, SCALES[size]
    rows, first = np.flatnonzero(ink.any(1)), round((picture.shape[1] - 11 * scale) / 2)
    shown = ["".join(".#"[int(pixel)] for pixel in row) for row in ink[rows[0] + scale // 2 : rows[-1] + 1 : scale]]
    cells = [first + digit * 4 * scale for digit in range(3)]
    cut = [tuple(row[cell + scale // 2 : cell + 3 * scale : scale] for row in shown) for cell in cells]
    return "".join(glyphs()[digit] for digit in cut)


def colour_of(picture):
    edge = np.concatenate([picture[0], picture[-1]]).mean(0)
    return list(COLORS)[np.abs(PALETTE - edge).sum(-1).argmin()]


def test_a_picture_depends_on_its_generator_only():
    one, two, other = drawn(1), drawn(1), drawn(2)
    assert np.array_equal(one.image, two.image) and one.plates == two.plates
    assert not np.array_equal(one.image, other.image)
    assert one.image.shape == (PLATES_SIZE, PLATES_SIZE, 3) and one.image.dtype == np.uint8


def test_plates_show_their_numbers_and_colours():
    for index in range(60):
        scene = drawn(index)
        assert 2 <= len(scene.plates) <= 4
        for plate in scene.plates:
            x0, y0, x1, y1 = plate.box
            picture = scene.image[y0:y1, x0:x1] / 255
            assert (read(picture, plate.size), colour_of(picture)) == (plate.number, plate.color)


def test_digits_are_where_they_are_said_to_be():
    """Ink inside their boxes only."""
    for index in range(20):
        scene = drawn(index)
        for plate in scene.plates:
            x0, y0, x1, y1 = plate.box
            ink = np.zeros(scene.image.shape[:2], bool)
            ink[y0:y1, x0:x1] = np.abs(scene.image[y0:y1, x0:x1] / 255.0 - scene.image[y0, x0] / 255.0).sum(-1) > 0.6
            for a, b, c, d in map(plate.digit_box, range(3)):
                assert ink[b, a:c].any() or ink[d - 1, a:c].any()
                ink[b:d, a:c] = False
            assert not ink[y0:y1, x0:x1].any()


def test_plates_of_a_picture_differ_and_stay_apart():
    for index in range(60):
        plates = drawn(index).plates
        for names in ([plate.color for plate in plates], [plate.number for plate in plates]):
            assert len(set(names)) == len(names)
        for number, one in enumerate(plates):
            for other in plates[:number]:
                (a0, b0, a1, b1), (c0, d0, c1, d1) = one.box, other.box
                assert a0 > c1 or c0 > a1 or b0 > d1 or d0 > b1


def test_numbers_of_training_are_never_those_of_the_test():
    every = [f"{number:03}" for number in range(1000)]
    unseen = {number for number in every if held_out(number)}
    assert len(unseen) == 200
    shown = [{plate.number for index in range(60) for plate in drawn(index, side).plates} for side in (True, False)]
    assert shown[0] <= unseen and not shown[1] & unseen
    for first, second in ((0, 1), (0, 2), (1, 2)):  # both sides show every pair of digits
        for side in (unseen, set(every) - unseen):
            assert len({(number[first], number[second]) for number in side}) == 100


@pytest.mark.parametrize("kind", PLATE_KINDS)
def test_answers_agree_with_the_plates(kind):
    found = set()
    for index in range(60):
        scene = drawn(index)
        question = ask_plates(scene, np.random.default_rng(index), kind)
        words, plates = question.text.split(), scene.plates
        named = next((plate for plate in plates if plate.color in words), None)
        answers = {
            "read": named and named.number,
            "exist": "yes" if named else "no",
            "color": next((plate.color for plate in plates if plate.size in words), None),
            "count": str(len(plates)),
        }
        assert question.answer == answers[kind] and question.kind == kind
        if kind == "color":
            assert sum(plate.size in words for plate in plates) == 1
        if kind in ("read", "color"):
            assert [plates[target] for target in question.targets] == [
                plate for plate in plates if {plate.color, plate.size} & set(words)
            ]
        found.add(question.answer)
    assert len(found) > 1
