"""Clips: each sample depends on seed and index alone, frames can be shown backwards, scores are per task."""

import pickle

import numpy as np
import pytest

from nuwa.benchmarks.base import BenchmarkError
from nuwa.benchmarks.clips import Clips
from nuwa.scenes.clips import CLIP_KINDS, draw_clip


def frames_of(sample):
    (video,) = sample.videos
    return [np.asarray(frame) for frame in video.frames]


def same(first, second):
    """Whether two samples agree in everything, frames included."""
    named = [(one.id, one.task, one.text, one.target) for one in (first, second)]
    return named[0] == named[1] and np.array_equal(frames_of(first), frames_of(second))


def test_a_sample_depends_on_seed_and_index_only():
    few, many = Clips(4, seed=3), Clips(50, seed=3)
    assert all(same(few[i], many[i]) for i in (3, 0, 2))
    assert same(pickle.loads(pickle.dumps(few))[1], many[1])
    assert not same(few[0], Clips(4, seed=4)[0])
    assert len({many.sample_id(i) for i in range(50)}) == 50 and many.sample_id(3) == many[3].id


def test_tasks_take_turns_and_an_exact_answer_counts():
    clips = Clips(12)
    assert [clips[i].task for i in range(12)] == 2 * list(CLIP_KINDS)
    for i in range(12):
        sample = clips[i]
        assert not sample.images and sample.videos[0].times == (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0)
        assert clips.score(sample, sample.target[0].upper() + ".") == {f"{sample.task}/exact_match": 1.0}
        assert clips.score(sample, "nonsense") == {f"{sample.task}/exact_match": 0.0}


def test_frames_in_another_order_keep_question_and_answer():
    orders = {order: Clips(3, seed=1, frame_order=order)[2] for order in ("forward", "reversed", "shuffled")}
    assert len({(one.text, one.target) for one in orders.values()}) == 1
    forward, backward, shuffled = (frames_of(one) for one in orders.values())
    assert np.array_equal(backward, forward[::-1])
    places = [next(i for i, own in enumerate(forward) if np.array_equal(own, one)) for one in shuffled]
    assert sorted(places) == list(range(8)) != places
    assert orders["shuffled"].videos[0].times == orders["forward"].videos[0].times


def test_repeated_frames_share_a_second():
    once, thrice = Clips(1)[0], Clips(1, repeats=3)[0]
    assert all(np.array_equal(frames_of(thrice)[i], frames_of(once)[i // 3]) for i in range(24))
    assert thrice.videos[0].times[:4] == (0.0, 1 / 3, 2 / 3, 1.0)


def test_clips_are_not_those_of_training():
    """Training draws its clips with another last word in the seed."""
    held_out = frames_of(Clips(1)[0])
    assert not np.array_equal(held_out, draw_clip(np.random.default_rng([0, 0, 1])).frames)


def test_the_mean_is_over_tasks():
    rows = [{"scores": {"order/exact_match": value}} for value in (1.0, 0.0, 0.0, 0.0)]
    rows += [{"scores": {"count/exact_match": 1.0}}]
    found = Clips(1).metrics(rows)
    assert found == {"video/mean": 0.625, "order/exact_match": 0.25, "count/exact_match": 1.0}
    assert next(iter(found)) == "video/mean" and Clips(1).metrics([]) == {}


def test_end_is_an_index_error():
    with pytest.raises(IndexError):
        Clips(2)[2]


@pytest.mark.parametrize(
    ("options", "key"),
    [({"samples": 0}, "samples"), ({"samples": 2, "tasks": ["vqa"]}, "tasks"), ({"samples": 2, "tasks": []}, "tasks"),
     ({"samples": 2, "seed": -1}, "seed"), ({"samples": 2, "frame_order": "mixed"}, "frame_order"),
     ({"samples": 2, "prompt": "hello"}, "prompt")],
)  # fmt: skip
def test_impossible_options_are_named(options, key):
    with pytest.raises(BenchmarkError, match=rf"dataset\.{key}"):
        Clips(**options)
