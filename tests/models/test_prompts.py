"""Prompt strings against LLaVA's own, character by character."""

import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from nuwa.models.prompts import PromptError, PromptFormat, expand_images

ROOT = Path(__file__).parents[2]
GOLDEN = json.loads((ROOT / "tests/golden/scoring/llava_prompts.json").read_text(encoding="utf-8"))["samples"]
SYSTEM = (
    "A chat between a curious {who} and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the {who}'s questions. "
)
FORMATS = {
    "llava_v1": PromptFormat(SYSTEM.replace("{who}", "human") + "USER: {images}{text} ASSISTANT:"),
    "mistral_instruct": PromptFormat("[INST] {images}{text} [/INST]"),
}


def configured(name: str) -> PromptFormat:
    """The prompt format of a file in conf/model."""
    config = OmegaConf.load(ROOT / f"conf/model/{name}.yaml")
    return PromptFormat(config.prompt, config.image_joiner, config.image_end)


@pytest.mark.parametrize("name", ["llava_1_5_7b", "llava_1_5_random"])
def test_configured_vicuna_prompt_is_llavas(name):
    prompt = configured(name)
    for sample in GOLDEN:
        assert prompt.render(sample["context"], sample["n_images"]) == sample["vicuna_v1"]
        assert prompt.render(sample["context"], 0) == sample["plain_no_image"]


@pytest.mark.parametrize("name", list(FORMATS))
def test_other_formats_are_llavas(name):
    for sample in GOLDEN:
        assert FORMATS[name].render(sample["context"], sample["n_images"]) == sample[name]


def test_tiny_prompt_is_the_one_it_was_trained_with():
    from nuwa.tiny.vocabulary import prompt_text

    question = "is there a red circle ?"
    assert configured("tiny_llava").render(question, 1) == prompt_text(question)


def test_braces_in_a_question_are_left_alone():
    prompt = PromptFormat("USER: {images}{text} END")
    assert prompt.render("what is {images} and {text} and {0}?", 1) == (
        "USER: <image>\nwhat is {images} and {text} and {0}? END"
    )


def test_text_may_place_its_own_images():
    prompt = PromptFormat("USER: {images}{text} END")
    assert prompt.render("<image> versus <image>?", 2) == "USER: <image> versus <image>? END"
    with pytest.raises(PromptError, match=r"1 <image> placeholders for 2 image"):
        prompt.render("<image>?", 2)


@pytest.mark.parametrize("template", ["USER: {text}", "USER: {images}", "{images}{images}{text}"])
def test_template_needs_both_slots_once(template):
    with pytest.raises(PromptError, match=r"model\.prompt"):
        PromptFormat(template)


def test_a_picture_may_be_wrapped():
    prompt = PromptFormat("A {images}{text} B", image_joiner="", image_end="", image="<s><pad><e>")
    assert prompt.render("x", 2) == "A <s><pad><e><s><pad><e>x B"
    assert prompt.render("first <image>, then <image>?", 2) == "A first <s><pad><e>, then <s><pad><e>? B"


def test_placeholders_are_repeated():
    assert expand_images([5, 4, 6, 4], 4, [1, 3]) == [5, 4, 6, 4, 4, 4]
    for counts in ([1], [1, 2, 3]):
        with pytest.raises(PromptError, match=rf"2 image placeholder\(s\) for {len(counts)} image"):
            expand_images([5, 4, 6, 4], 4, counts)
