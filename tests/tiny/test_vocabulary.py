"""Tokenizers: words, prompts and boxes go to ids and back, and agree with the fast encoder of training."""

import numpy as np
import pytest
from omegaconf import OmegaConf

from nuwa.pruners.catalogue import conf_folder
from nuwa.scenes.clips import CLIP_KINDS, ask_clip, draw_clip
from nuwa.scenes.plates import PLATE_KINDS, ask_plates, draw_plates
from nuwa.scenes.questions import ask
from nuwa.scenes.scene import draw_scene
from nuwa.tiny.shipped import TINY_MODELS


@pytest.fixture(scope="module", params=list(TINY_MODELS))
def tiny(request):
    return TINY_MODELS[request.param]


@pytest.fixture(scope="module")
def tokenizer(tiny):
    return tiny.tokenizer()


@pytest.fixture
def words(tiny):
    return tiny.vocabulary


@pytest.fixture
def questions(tiny):
    return list({"video": clip_questions, "text": plate_questions}.get(tiny.name, some_questions)())


def some_questions():
    for index in range(60):
        rng = np.random.default_rng([2, index, 7])
        scene = draw_scene(rng)
        yield from (ask(scene, rng, task) for task in ("vqa", "vg"))


def clip_questions():
    for index in range(60):
        rng = np.random.default_rng([2, index, 7])
        clip = draw_clip(rng)
        yield from filter(None, (ask_clip(clip, rng, kind) for kind in CLIP_KINDS))


def plate_questions():
    for index in range(60):
        rng = np.random.default_rng([2, index, 7])
        scene = draw_plates(rng, unseen=True)
        yield from (ask_plates(scene, rng, kind) for kind in PLATE_KINDS)


def test_configured_prompt_is_the_one_trained_with(tiny, words, tokenizer, questions):
    config = OmegaConf.load(conf_folder() / "model" / f"tiny_{tiny.name}.yaml")
    picture = words.image if tiny.name == "video" else config.get("image", words.image)
    picture += config.image_end
    for question in questions:
        prompt = config.prompt.replace("{images}", picture).replace("{text}", question.text)
        expected = [*words.prefix, words.ids[words.image], *words.encode_question(question.text)]
        assert tokenizer(prompt)["input_ids"] == expected


def test_answers_survive_the_round_trip(words, tokenizer, questions):
    for question in questions:
        text = tokenizer.decode(words.encode_answer(question)).strip()
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == words.encode_answer(question)
        if question.box is None:
            assert text == question.answer


def test_every_question_fits_its_slot(tiny, words, questions):
    for question in questions:
        assert len(words.encode_words(question.text)) + len(words.encode_answer(question)) <= tiny.longest


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("llava", "[0.00,0.12,0.34,1.00]"),
        ("qwen", '```json\n[\n\t{"bbox_2d": [0, 12, 33, 96], "label": "object"}\n]\n```'),
    ],
)
def test_a_box_is_nine_tokens_in_the_frame_of_its_family(name, text):
    tokenizer = TINY_MODELS[name].tokenizer()
    ids = TINY_MODELS[name].vocabulary.encode_box((0, 12, 33, 96))
    assert len(ids) == 9
    assert tokenizer.decode(ids) == text
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == ids


def test_a_number_is_spelled_digit_by_digit():
    text = TINY_MODELS["text"]
    ids = text.vocabulary.encode_words("0472")
    assert ids == [text.vocabulary.ids[digit] for digit in "0472"]
    assert text.tokenizer()("0472", add_special_tokens=False)["input_ids"] == ids
    assert text.tokenizer().decode(ids) == "0472"


def test_llava_text_of_a_box_is_the_answer():
    llava = TINY_MODELS["llava"].vocabulary
    for question in some_questions():
        if question.box is not None:
            assert llava.encode_box(question.box) == llava.encode_words(question.answer.replace("[", "▁[ ").replace(
                ",", " , ").replace("]", " ]"))  # fmt: skip


def test_punctuation_needs_no_space_before_it(words, tokenizer):
    spaced, tight = (tokenizer(text)["input_ids"] for text in ("what is red ?", "what is red?"))
    assert spaced == tight


def test_no_question_uses_an_unknown_word(words, tokenizer, questions):
    for question in questions:
        assert words.ids["<unk>"] not in tokenizer(question.text)["input_ids"]
