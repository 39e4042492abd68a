"""Questions: every answer agrees with an independent reading of the question against the scene's objects."""

import copy
from functools import cache

import numpy as np
import pytest

from nuwa.scenes.questions import VG_MIX, VQA_MIX, ask, box_text, sample_caption
from nuwa.scenes.scene import COLORS, SHAPE_SIZES, SHAPES, SceneObject, draw_scene
from nuwa.scenes.scene import Scene as SceneType


@cache
def drawn(index):
    """A scene, and the generator as drawing left it."""
    rng = np.random.default_rng([11, index, 7])
    return draw_scene(rng), rng


def scene_and_rng(index):
    """The scene and a copy of its generator: every test asks the same scenes."""
    scene, rng = drawn(index)
    return scene, copy.deepcopy(rng)


def words_of(phrase):
    """(colour, shape, size) that a phrase names, each None when it names none."""
    words = [("cross" if w == "crosses" else w.removesuffix("s") if w not in ("cross",) else w) for w in phrase.split()]
    return tuple(next((w for w in words if w in names), None) for names in (COLORS, SHAPES, SHAPE_SIZES))


def named(objects, phrase):
    color, shape, size = words_of(phrase)
    return [o for o in objects if color in (None, o.color) and shape in (None, o.shape) and size in (None, o.size)]


def middle(item):
    x0, y0, x1, y1 = item.box
    return (x0 + x1) / 2, (y0 + y1) / 2


def solve_vqa(objects, text):
    if text.startswith("is there"):
        return "yes" if named(objects, text) else "no"
    if text.startswith("what color"):
        (only,) = named(objects, text)
        return only.color
    if text.startswith("what shape"):
        (only,) = named(objects, text)
        return only.shape
    if text.startswith("how many"):
        return str(len(named(objects, text)))
    for relation, axis, sign in (("left of", 0, -1), ("right of", 0, 1), ("above", 1, -1), ("below", 1, 1)):
        if relation in text:
            (first,), (second,) = (named(objects, part) for part in text.split(relation))
            return "yes" if sign * (middle(first)[axis] - middle(second)[axis]) > 0 else "no"
    raise AssertionError(text)


def solve_vg(objects, text):
    for word, axis, pick in (("leftmost", 0, min), ("rightmost", 0, max), ("topmost", 1, min), ("bottommost", 1, max)):
        if word in text:
            return pick(named(objects, text), key=lambda o: middle(o)[axis]).box
    (only,) = named(objects, text)
    return only.box


@pytest.mark.parametrize("task", ["vqa", "vg"])
def test_answers_agree_with_brute_force(task):
    for index in range(300):
        scene, rng = scene_and_rng(index)
        question = ask(scene, rng, task)
        if task == "vqa":
            assert question.answer == solve_vqa(scene.objects, question.text)
            assert question.box is None
        else:
            assert question.box == solve_vg(scene.objects, question.text)
            assert question.answer == box_text(question.box)


def test_the_same_generator_asks_the_same_question():
    first, second = (ask(*scene_and_rng(4), "vqa") for _ in range(2))
    assert first == second


@pytest.mark.parametrize(("task", "mix"), [("vqa", VQA_MIX), ("vg", VG_MIX)])
def test_kinds_come_about_as_often_as_the_mix_says(task, mix):
    kinds = [ask(*scene_and_rng(index), task).kind for index in range(600)]
    for kind, share in mix.items():
        assert kinds.count(kind) / len(kinds) == pytest.approx(share, abs=0.09)


def test_a_mix_restricts_the_kinds():
    kinds = {ask(*scene_and_rng(index), "vqa", {"count": 1.0, "exist": 0.0}).kind for index in range(20)}
    assert kinds == {"count"}


def test_none_when_the_scene_allows_no_such_question():
    twins = tuple(SceneObject("red", "ring", "small", (x, 8, x + 12, 20), 0.0) for x in (0, 40))
    scene = SceneType(np.zeros((96, 96, 3), np.uint8), twins, np.zeros((96, 96), np.int8))
    assert ask(scene, np.random.default_rng(0), "vqa", {"color": 0.5, "relation": 0.5}) is None


def test_targets_and_mentions_point_at_the_objects_of_the_text():
    for index in range(100):
        scene, rng = scene_and_rng(index)
        question = ask(scene, rng, "vg")
        assert [scene.objects[i].box for i in question.targets] == [question.box]
        for position, objects in question.mentions:
            noun = question.text.split()[position]
            assert noun == "object" or all(scene.objects[i].shape == noun for i in objects)


def test_box_text_has_two_decimals_and_stays_inside():
    assert box_text((0, 9.6, 48, 96)) == "[0.00,0.10,0.50,1.00]"
    assert box_text((-5, 0, 100, 50)) == "[0.00,0.00,1.00,0.52]"


def test_captions_name_prominent_objects_more_often():
    first, rest = [], []
    for index in range(200):
        scene, rng = scene_and_rng(index)
        caption = sample_caption(scene, rng)
        ranked = sorted(scene.objects, key=lambda o: -o.prominence)
        assert len(caption) in (2, 4)
        pairs = {caption[i : i + 2] for i in range(0, len(caption), 2)}
        first.append((ranked[0].color, ranked[0].shape) in pairs)
        rest.append((ranked[-1].color, ranked[-1].shape) in pairs)
    assert np.mean(first) > np.mean(rest) + 0.3
