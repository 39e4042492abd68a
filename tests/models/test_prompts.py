"""Prompt strings against LLaVA's own, character by character."""

import json
from pathlib import Path

import hydra
import pytest
from omegaconf import OmegaConf

from nuwa.config import register
from nuwa.models.prompts import IMAGE, PromptError, PromptFormat, put_images
from nuwa.tiny.shipped import TINY_MODELS

ROOT = Path(__file__).parents[2]
GOLDEN = json.loads((ROOT / "tests/golden/scoring/llava_prompts.json").read_text(encoding="utf-8"))["samples"]
SYSTEM = (
    "A chat between a curious {who} and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the {who}'s questions. "
)
LLAVA_V1 = PromptFormat(SYSTEM.replace("{who}", "human") + "USER: {images}{text} ASSISTANT:")


QWEN_ROWS = json.loads((ROOT / "tests/golden/scoring/nuwa_qwen_refcoco.json").read_text(encoding="utf-8"))["samples"]


def configured(name: str) -> PromptFormat:
    """The prompt format of a file in conf/model."""
    register()
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = hydra.compose("config", [f"model={name}"]).model
    return PromptFormat(config.prompt, config.image_joiner, config.image_end, config.get("image", IMAGE))


@pytest.mark.parametrize("name", ["llava_1_5_7b", "llava_1_5_random", "llava_next_7b", "llava_next_random"])
def test_configured_vicuna_prompt_is_llavas(name):
    prompt = configured(name)
    for sample in GOLDEN:
        assert prompt.render(sample["context"], sample["n_images"]) == sample["vicuna_v1"]
        assert prompt.render(sample["context"], 0) == sample["plain_no_image"]


def test_configured_mistral_prompt_is_llavas():
    prompt = configured("llava_next_mistral_7b")
    for sample in GOLDEN:
        assert prompt.render(sample["context"], sample["n_images"]) == sample["mistral_instruct"]


def test_the_prompt_of_the_authors_next_runs_is_llavas():
    for sample in GOLDEN:
        assert LLAVA_V1.render(sample["context"], sample["n_images"]) == sample["llava_v1"]


@pytest.mark.parametrize("name", ["qwen2_5_vl_3b", "qwen2_5_vl_7b", "qwen2_vl_2b", "qwen2_vl_random"])
def test_configured_qwen_prompt_is_its_chat_template(name):
    picture = "<|vision_start|><|image_pad|><|vision_end|>"
    assert configured(name).render("why?", 2) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        f"{picture}{picture}why?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_qwen_is_asked_for_boxes_as_the_authors_do():
    config = OmegaConf.load(ROOT / "conf/model/qwen2_5_vl_7b.yaml")
    captions = {row["doc"]["normal_caption"]: row["prompt"] for row in QWEN_ROWS}
    plain = [caption for caption in captions if caption.split()[0].lower() not in ("a", "an", "the")]
    assert plain and all(config.box_prompt.replace("{expression}", one) == captions[one] for one in plain)


@pytest.mark.parametrize(("name", "tiny"), [("tiny_llava", TINY_MODELS["llava"]), ("tiny_qwen", TINY_MODELS["qwen"])])
def test_tiny_prompts_are_those_they_were_trained_with(name, tiny):
    words, question = tiny.vocabulary, "is there a red circle ?"
    trained = [*words.prefix, words.ids[words.image], *words.encode_question(question)]
    assert tiny.tokenizer()(configured(name).render(question, 1))["input_ids"] == trained


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


def test_texts_of_pictures_take_the_place_of_placeholders():
    assert put_images("a <p> b<p>", "<p>", ["<p>", "<row><p><p>"]) == "a <p> b<row><p><p>"
    assert put_images("nothing", "<p>", []) == "nothing"
    for texts in (["<p>"], ["<p>"] * 3):
        with pytest.raises(PromptError, match=rf"2 <p> placeholder\(s\) for {len(texts)} of"):
            put_images("a <p> b<p>", "<p>", texts)
