"""Clips: every answer is read off the pixels again, and a clip is a function of its generator alone."""

from itertools import pairwise

import numpy as np
import pytest

from nuwa.scenes.clips import CLIP_KINDS, CLIP_SIZE, FRAMES, TURNS, ask_clip, draw_clip
from nuwa.scenes.scene import COLORS

PALETTE = np.array(list(COLORS.values())) / 255
SEEN = 25  # pixels of a square's colour; the smallest square has 49


def drawn(index):
    return draw_clip(np.random.default_rng([4, index, 7]))


def seen_pixels(clip, color):
    """(F, S, S) bool: pixels that are coloured, not grey, and nearest to ``color``."""
    frames = clip.frames / 255
    nearest = np.abs(frames[..., None, :] - PALETTE).sum(-1).argmin(-1)
    vivid = (np.ptp(frames, -1) > 0.25) | (frames.min(-1) > 0.75)
    return vivid & (nearest == list(COLORS).index(color))


def frames_of(clip, color):
    return np.flatnonzero(seen_pixels(clip, color).sum((1, 2)) >= SEEN).tolist()


def answers(kind):
    """Clips with a question of ``kind``: the clip, the colours named, the answer."""
    for index in range(40):
        clip = drawn(index)
        question = ask_clip(clip, np.random.default_rng(index), kind)
        if question is not None:
            yield clip, [word for word in question.text.split() if word in COLORS], question.answer


def test_a_clip_depends_on_its_generator_only():
    one, two, other = drawn(1), drawn(1), drawn(2)
    assert np.array_equal(one.frames, two.frames) and one.squares == two.squares
    assert not np.array_equal(one.frames, other.frames)
    assert one.frames.shape == (FRAMES, CLIP_SIZE, CLIP_SIZE, 3) and one.frames.dtype == np.uint8


def test_squares_are_where_they_are_said_to_be():
    for index in range(20):
        clip = drawn(index)
        for square in clip.squares:
            assert frames_of(clip, square.color) == sorted(square.boxes)
            pixels = seen_pixels(clip, square.color)
            for frame, (x0, y0, x1, y1) in square.boxes.items():
                assert pixels[frame, y0:y1, x0:x1].mean() > 0.9 and pixels[frame].sum() <= 1.1 * (x1 - x0) * (y1 - y0)


def test_direction_is_the_way_of_the_centre():
    for clip, (color,), answer in answers("direction"):
        where = seen_pixels(clip, color)
        first, last = (np.argwhere(where[frame]).mean(0) for frame in (0, FRAMES - 1))
        (down, right), names = last - first, (("left", "right"), ("up", "down"))
        step, (back, forth) = (right, names[0]) if abs(right) > abs(down) else (down, names[1])
        assert answer == (forth if step > 0 else back) and min(abs(right), abs(down)) < 1 < 8 < max(
            abs(right), abs(down)
        )


def test_order_is_that_of_the_first_frames():
    for clip, colors, answer in answers("order"):
        first = [frames_of(clip, color)[0] for color in colors]
        assert first[0] != first[1] and answer == colors[int(np.argmin(first))]


def test_moment_is_the_only_frame():
    for clip, (color,), answer in answers("moment"):
        assert frames_of(clip, color) == [int(answer)]


def test_change_is_from_the_answer_to_another_colour_at_its_place():
    for clip, _, answer in answers("change"):
        frames = frames_of(clip, answer)
        assert frames == list(range(len(frames))) and TURNS[0] <= len(frames) < TURNS[1]
        place = seen_pixels(clip, answer)[0]
        after = {color for color in COLORS if color != answer and seen_pixels(clip, color)[-1][place].mean() > 0.8}
        assert len(after) == 1


def test_count_is_the_number_of_separate_appearances():
    numbers = set()
    for clip, (color,), answer in answers("count"):
        frames = frames_of(clip, color)
        assert int(answer) == len(frames) == 1 + sum(b - a > 1 for a, b in pairwise(frames))
        numbers.add(answer)
    assert numbers == {"1", "2", "3"}


def test_presence_is_whether_the_colour_is_seen():
    given = {answer: bool(frames_of(clip, color)) for clip, (color,), answer in answers("presence")}
    assert given == {"yes": True, "no": False}


@pytest.mark.parametrize("kind", CLIP_KINDS)
def test_sightings_are_those_of_the_colours_asked_about(kind):
    for index in range(10):
        clip = drawn(index)
        question = ask_clip(clip, np.random.default_rng(index), kind)
        if question is None:
            continue
        colors = {clip.squares[sighting // FRAMES].color for sighting in question.targets}
        assert all(sighting % FRAMES in clip.squares[sighting // FRAMES].boxes for sighting in question.targets)
        named = {word for word in question.text.split() if word in COLORS}
        assert colors == (named or {question.answer}) or question.answer == "no"
        assert {position for position, _ in question.mentions} == {
            position for position, word in enumerate(question.text.split()) if word in COLORS
        }
