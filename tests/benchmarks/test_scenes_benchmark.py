"""Scenes: each sample depends on seed and index alone, targets are true, scores are the promised metrics."""

import pickle

import numpy as np
import pytest

from nuwa.benchmarks.base import BenchmarkError
from nuwa.benchmarks.scenes import Scenes
from nuwa.scenes.scene import draw_scene


def same(first, second):
    """Whether two samples agree in everything, pictures included."""
    return (first.id, first.text, first.target) == (second.id, second.text, second.target) and np.array_equal(
        np.asarray(first.images[0]), np.asarray(second.images[0])
    )


def test_a_sample_depends_on_seed_and_index_only():
    few, many = Scenes(4, seed=3), Scenes(50, seed=3)
    assert all(same(few[i], many[i]) for i in (3, 0, 2))
    assert same(pickle.loads(pickle.dumps(few))[1], many[1])
    assert not same(few[0], Scenes(4, seed=4)[0])
    ids = [many.sample_id(i) for i in range(50)]
    assert len(set(ids)) == 50 and ids[3] == many[3].id


def test_tasks_take_turns_and_are_answered_in_their_own_way():
    scenes = Scenes(20)
    assert [scenes[i].task for i in range(4)] == ["vqa", "vg", "vqa", "vg"]
    for i in range(20):
        sample = scenes[i]
        assert sample.images[0].size == (96, 96) and sample.images[0].mode == "RGB"
        if sample.task == "vqa":
            assert scenes.score(sample, sample.target[0].upper() + ".") == {"vqa/exact_match": 1.0}
            assert scenes.score(sample, "nonsense") == {"vqa/exact_match": 0.0}
        else:
            answer = "[" + ",".join(f"{value:.2f}" for value in sample.target) + "]"
            scores = scenes.score(sample, answer)
            assert scores["vg/acc@0.5"] == 1.0 and scores["vg/miou"] > 0.85
            assert set(scores) == {"vg/acc@0.5", "vg/miou", "vg/center_acc", "vg/parsed"}
            assert scenes.score(sample, "")["vg/acc@0.5"] == 0.0


def test_pictures_are_not_those_of_training():
    """Training draws its scenes with another third word in the seed."""
    held_out = np.asarray(Scenes(1)[0].images[0])
    assert not np.array_equal(held_out, draw_scene(np.random.default_rng([0, 0, 1])).image)


def test_one_task_alone_and_longer_prompts():
    scenes = Scenes(3, tasks=["vg"], vg_prompt="Find it: {question}", vg_max_new_tokens=40)
    assert all(scenes[i].task == "vg" and scenes[i].text.startswith("Find it: where is the ") for i in range(3))
    assert scenes.max_new_tokens("vg") == 40


def test_means_are_over_the_samples_that_have_the_metric():
    scores = [{"vqa/exact_match": 1.0}, {"vg/miou": 0.5}, {"vqa/exact_match": 0.0}, {"vg/miou": 0.0}]
    rows = [{"scores": one} for one in scores]
    assert Scenes(1).metrics(rows) == {"vqa/exact_match": 0.5, "vg/miou": 0.25}
    assert Scenes(1).metrics([]) == {}


def test_end_is_an_index_error():
    scenes = Scenes(2)
    with pytest.raises(IndexError):
        scenes[2]


@pytest.mark.parametrize(
    ("options", "key"),
    [({"samples": 0}, "samples"), ({"samples": 2, "tasks": ["ocr"]}, "tasks"), ({"samples": 2, "tasks": []}, "tasks"),
     ({"samples": 2, "seed": -1}, "seed"), ({"samples": 2, "vqa_prompt": "hello"}, "vqa_prompt")],
)  # fmt: skip
def test_impossible_options_are_named(options, key):
    with pytest.raises(BenchmarkError, match=rf"dataset\.{key}"):
        Scenes(**options)


def test_enlarged_pictures_show_the_same_scene():
    plain, large = (Scenes(1, picture_side=side)[0] for side in (96, 288))
    assert large.images[0].size == (288, 288)
    assert large.images[0].reduce(3).tobytes() == plain.images[0].tobytes()
    assert large.target == plain.target
