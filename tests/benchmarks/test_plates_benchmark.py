"""Plates: each sample depends on seed and index alone, sizes and kinds take turns, scores are per task."""

import pickle
from collections import Counter

import numpy as np
import pytest

from nuwa.benchmarks.abilities import ability_of
from nuwa.benchmarks.base import BenchmarkError
from nuwa.benchmarks.plates import Plates, plates_and_question
from nuwa.scenes.plates import held_out

READING = ("read_small", "read_medium", "read_large")


def same(first, second):
    named = [(one.id, one.task, one.text, one.target) for one in (first, second)]
    return named[0] == named[1] and np.array_equal(*(np.asarray(one.images[0]) for one in (first, second)))


def test_a_sample_depends_on_seed_and_index_only():
    few, many = Plates(4, seed=3), Plates(50, seed=3)
    assert all(same(few[i], many[i]) for i in (3, 0, 2))
    assert same(pickle.loads(pickle.dumps(few))[1], many[1])
    assert not same(few[0], Plates(4, seed=4)[0])
    assert len({many.sample_id(i) for i in range(50)}) == 50 and many.sample_id(3) == many[3].id


def test_tasks_and_kinds_take_turns_and_an_exact_answer_counts():
    plates = Plates(24)
    samples = [plates[i] for i in range(24)]
    assert [sample.task for sample in samples] == 6 * [*READING, "vqa"]
    assert Counter(sample.meta["kind"] for sample in samples) == {"read": 18, "exist": 2, "color": 2, "count": 2}
    for sample in samples:
        assert plates.score(sample, sample.target[0].upper() + ".") == {f"{sample.task}/exact_match": 1.0}
        assert plates.score(sample, "nonsense") == {f"{sample.task}/exact_match": 0.0}


def test_numbers_are_unseen_and_half_of_one_is_wrong():
    plates = Plates(30, tasks=READING)
    for i in range(30):
        (number,) = plates[i].target
        assert held_out(number) and plates.score(plates[i], number[:2]) == {f"{plates[i].task}/exact_match": 0.0}


def test_the_size_asked_about_is_the_tasks():
    """Eleven by five pixels of a glyph and the margin, enlarged."""
    boxes = {"read_small": (15, 9), "read_medium": (26, 14), "read_large": (39, 21)}
    plates = Plates(30, tasks=READING)
    for i in range(30):
        scene, question = plates_and_question(0, i, "read", plates[i].task.removeprefix("read_"))
        x0, y0, x1, y1 = scene.plates[question.targets[0]].box
        assert question.text == plates[i].text and (x1 - x0, y1 - y0) == boxes[plates[i].task]


def test_what_is_read_is_the_ability_to_read():
    sample = Plates(4)
    rows = [{"task": sample[i].task, "meta": sample[i].meta} for i in range(4)]
    assert [ability_of("plates", row) for row in rows] == 3 * ["reading"] + ["hallucination"]
    assert ability_of("plates", {"task": "vqa", "meta": {"kind": "count"}}) == "answering"


def test_pictures_are_enlarged_pixel_by_pixel():
    small, large = (np.asarray(Plates(1, picture_side=side)[0].images[0]) for side in (64, 192))
    assert np.array_equal(large, small.repeat(3, 0).repeat(3, 1))


def test_end_is_an_index_error():
    with pytest.raises(IndexError):
        Plates(2)[2]


@pytest.mark.parametrize(
    ("options", "key"),
    [({"samples": 0}, "samples"), ({"samples": 2, "tasks": ["vg"]}, "tasks"), ({"samples": 2, "tasks": []}, "tasks"),
     ({"samples": 2, "seed": -1}, "seed"), ({"samples": 2, "picture_side": 0}, "picture_side"),
     ({"samples": 2, "picture_side": 10000}, "picture_side"), ({"samples": 2, "prompt": "hello"}, "prompt")],
)  # fmt: skip
def test_impossible_options_are_named(options, key):
    with pytest.raises(BenchmarkError, match=rf"dataset\.{key}"):
        Plates(**options)
