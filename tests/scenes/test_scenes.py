"""Scenes: the same for a seed, boxes tight around the drawn pixels, objects apart from each other."""

import numpy as np
import pytest

from nuwa.scenes.scene import COLORS, IMAGE_SIZE, SHAPES, SIDE_RANGE, draw_scene, shape_mask


def scenes(number=40, **options):
    return [draw_scene(np.random.default_rng([3, index, 7]), **options) for index in range(number)]


def test_a_seed_draws_the_same_scene_twice():
    for first, second in zip(scenes(5), scenes(5), strict=True):
        np.testing.assert_array_equal(first.image, second.image)
        np.testing.assert_array_equal(first.owner, second.owner)
        assert first.objects == second.objects


def test_different_last_words_of_a_seed_draw_different_scenes():
    held_out, training = (draw_scene(np.random.default_rng([0, 5, use])) for use in (7, 1))
    assert (held_out.image != training.image).any()


def test_default_scenes_have_three_to_seven_objects_on_the_full_canvas():
    for scene in scenes():
        assert scene.image.shape == (IMAGE_SIZE, IMAGE_SIZE, 3)
        assert scene.image.dtype == np.uint8
        assert 3 <= len(scene.objects) <= 7


@pytest.mark.parametrize("options", [{}, {"size": 48, "count": (2, 4)}])
def test_boxes_are_tight_around_the_pixels_of_their_object(options):
    for scene in scenes(**options):
        for index, item in enumerate(scene.objects):
            rows, columns = np.nonzero(scene.owner == index)
            assert item.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_object_pixels_have_about_the_named_color():
    for scene in scenes(20):
        for index, item in enumerate(scene.objects):
            mean = scene.image[scene.owner == index].mean(0)
            distance = {name: np.abs(mean - value).sum() for name, value in COLORS.items()}
            assert min(distance, key=distance.get) == item.color


def test_small_and_large_objects_do_not_overlap_in_size():
    for scene in scenes():
        for item in scene.objects:
            side = ((item.box[2] - item.box[0]) * (item.box[3] - item.box[1])) ** 0.5
            low, high = SIDE_RANGE[item.size]
            assert low - 1.5 <= side <= high + 1


def test_a_larger_object_is_more_prominent_all_else_equal():
    by_size = {size: [o.prominence for s in scenes(80) for o in s.objects if o.size == size] for size in SIDE_RANGE}
    assert np.mean(by_size["large"]) > np.mean(by_size["small"]) + 1


@pytest.mark.parametrize("shape", SHAPES)
def test_masks_reach_all_four_sides(shape):
    mask = shape_mask(shape, 24, 26)
    assert mask[0].any() and mask[-1].any() and mask[:, 0].any() and mask[:, -1].any()


def test_backgrounds_differ_from_place_to_place():
    spreads = []
    for scene in scenes(20):
        cells = np.where(scene.owner[..., None] < 0, scene.image, np.nan).reshape(4, 24, 4, 24, 3)
        spreads.append(np.nanstd(np.nanmean(cells, axis=(1, 3)), axis=(0, 1)).mean())
    assert np.mean(spreads) > 10
