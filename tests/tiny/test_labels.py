"""Labels of patches, against a count of pixels patch by patch."""

from collections import Counter

import numpy as np

from nuwa.scenes.plates import PLATES_SIZE, SCALES, draw_plates
from nuwa.scenes.scene import COLORS, draw_scene
from nuwa.tiny.data import label_cells
from nuwa.tiny.plates import _label_patches


def most_seen(boxes, size, share, cell=4):
    """For every square of a picture, the number of the box that holds most of its pixels, from 1; 0 below a share."""
    owners = []
    for top in range(0, size, cell):
        for left in range(0, size, cell):
            pixels = [(x, y) for y in range(top, top + cell) for x in range(left, left + cell)]
            held = Counter(
                number
                for number, (x0, y0, x1, y1) in enumerate(boxes, 1)
                for x, y in pixels
                if x0 <= x < x1 and y0 <= y < y1
            )
            most = max(held.values(), default=0)
            owners.append({number for number, count in held.items() if count == most > share * cell**2} or {0})
    return owners


def test_patches_of_shapes():
    for index in range(10):
        scene = draw_scene(np.random.default_rng([6, index, 7]))
        labels = label_cells(scene, 4)
        seen = most_seen([item.box for item in scene.objects], 96, 0.35)
        assert all(own in allowed for own, allowed in zip(labels["owner"], seen, strict=True))
        for own, (color, _, _) in zip(labels["owner"], labels["classes"], strict=True):
            assert color == (list(COLORS).index(scene.objects[own - 1].color) + 1 if own else 0)


def test_patches_of_plates_name_digit_and_place():
    for index in range(10):
        scene = draw_plates(np.random.default_rng([6, index, 7]))
        labels = _label_patches(scene)
        digits = [(plate, place) for plate in scene.plates for place in range(3)]
        seen = most_seen([plate.digit_box(place) for plate, place in digits], PLATES_SIZE, 0.15)
        shown = set()
        for own, (color, digit, place, size), allowed in zip(labels["owner"], labels["classes"], seen, strict=True):
            plate = scene.plates[own - 1] if own else None
            assert (color, size) == (
                (list(COLORS).index(plate.color) + 1, list(SCALES).index(plate.size) + 1) if plate else (0, 0)
            )
            named = [(int(digits[n - 1][0].number[digits[n - 1][1]]) + 1, digits[n - 1][1] + 1) for n in allowed if n]
            assert (digit, place) in (named or [(0, 0)])
            shown |= {(color, place)} if digit else set()
        assert len(shown) == 3 * len(scene.plates)  # every digit of every plate is the label of a patch
