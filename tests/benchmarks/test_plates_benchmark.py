"""Plates: each sample depends on seed and index alone, sizes and kinds take turns, scores are per task and part."""

import pickle
from collections import Counter

import numpy as np
import pytest

from nuwa.benchmarks.abilities import ability_of
from nuwa.benchmarks.base import BenchmarkError
from nuwa.benchmarks.plates import Plates, plates_and_question
from nuwa.scenes.plates import held_out

BOXES = {"small": (15, 9), "medium": (26, 14), "large": (39, 21)}
"""Eleven by five pixels of a glyph and the margin, enlarged."""


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
    assert [sample.task for sample in samples] == 12 * ["read", "vqa"]
    assert Counter(sample.meta["kind"] for sample in samples) == {"read": 12, "exist": 4, "color": 4, "count": 4}
    assert Counter(sample.meta["part"] for sample in samples[::2]) == {"small": 4, "medium": 4, "large": 4}
    for sample in samples:
        metric = f"{sample.task}/exact_match"
        for said, right in ((sample.target[0].upper() + ".", 1.0), ("nonsense", 0.0)):
            assert plates.score(sample, said) == {metric: right, f"{metric}/{sample.meta['part']}": right}


def test_a_task_leads_its_parts_whatever_is_answered_first():
    plates = Plates(9)
    rows = [{"scores": plates.score(plates[i], plates[i].target[0] if i < 5 else "")} for i in (8, 5, 4, 3, 2, 1, 0)]
    numbers = plates.metrics(rows)
    assert [*numbers] == ["read/exact_match", "read/exact_match/small", "read/exact_match/medium",
                          "read/exact_match/large", "vqa/exact_match", "vqa/exact_match/exist",
                          "vqa/exact_match/color", "vqa/exact_match/count"]  # fmt: skip
    assert [*numbers.values()] == [3 / 4, 1, 1 / 2, 1, 2 / 3, 1, 1, 0]


def test_numbers_are_unseen_and_half_of_one_is_wrong():
    plates = Plates(30, tasks=("read",))
    for i in range(30):
        (number,) = plates[i].target
        assert held_out(number) and not any(plates.score(plates[i], number[:2]).values())


def test_the_size_asked_about_is_the_part():
    plates = Plates(30, tasks=("read",))
    for i in range(30):
        size = ("small", "medium", "large")[i % 3]
        scene, question = plates_and_question(0, i, "read", size)
        x0, y0, x1, y1 = scene.plates[question.targets[0]].box
        assert question.text == plates[i].text and (x1 - x0, y1 - y0) == BOXES[size] and plates[i].meta["part"] == size


def test_what_is_read_is_the_ability_to_read():
    sample = Plates(4)
    rows = [{"task": sample[i].task, "meta": sample[i].meta} for i in range(4)]
    assert [ability_of("plates", row) for row in rows] == ["reading", "hallucination", "reading", "answering"]
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
