"""Tokenizer: words, prompts and boxes go to ids and back, and agree with the fast encoder of training."""

import numpy as np
import pytest

from nuwa.tiny.data import SLOT
from nuwa.tiny.model import FIRST_PATCH
from nuwa.tiny.questions import ask
from nuwa.tiny.scenes import draw_scene
from nuwa.tiny.vocabulary import ANSWER_CUE, BOS, IDS, IMAGE, PREFIX_IDS, build_tokenizer, encode_words, prompt_text


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def some_questions():
    for index in range(60):
        rng = np.random.default_rng([2, index, 7])
        scene = draw_scene(rng)
        yield from (ask(scene, rng, task) for task in ("vqa", "vg"))


def test_prompt_is_the_prefix_the_image_and_the_question(tokenizer):
    assert len(PREFIX_IDS) == FIRST_PATCH == 8
    for question in some_questions():
        expected = [*PREFIX_IDS, IMAGE, *encode_words(f"{question.text} {ANSWER_CUE}")]
        assert tokenizer(prompt_text(question.text))["input_ids"] == expected


def test_answers_survive_the_round_trip(tokenizer):
    for question in some_questions():
        ids = tokenizer(question.answer, add_special_tokens=False)["input_ids"]
        assert ids == encode_words(question.answer)
        assert tokenizer.decode(ids).strip() == question.answer


def test_every_question_fits_its_slot():
    for question in some_questions():
        assert len(encode_words(f"{question.text} {ANSWER_CUE}")) + len(encode_words(question.answer)) <= SLOT


@pytest.mark.parametrize("box", ["[0.00,0.12,0.34,1.00]", "[0.99,0.98,1.00,0.01]"])
def test_a_box_is_nine_tokens(tokenizer, box):
    ids = tokenizer(box, add_special_tokens=False)["input_ids"]
    assert len(ids) == 9
    assert tokenizer.decode(ids) == box


def test_punctuation_needs_no_space_before_it(tokenizer):
    spaced, tight = (tokenizer(text)["input_ids"] for text in ("where is the red ring ?", "where is the red ring?"))
    assert spaced == tight
    assert spaced[0] == BOS


def test_no_question_uses_an_unknown_word(tokenizer):
    for question in some_questions():
        assert IDS["<unk>"] not in tokenizer(f"{question.text} {question.answer}")["input_ids"]
