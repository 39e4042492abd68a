"""A chat's answers, against the whole conversation read in one go and without a cache."""

from dataclasses import replace

import pytest
import torch
from helpers.jobs import CONF, compose

import nuwa
from nuwa.benchmarks.scenes import Scenes
from nuwa.chat import Chat
from nuwa.models.prompts import PromptError, PromptFormat

SCENES = Scenes(samples=4)
QUESTIONS = [SCENES[number].text for number in (1, 3, 0)]
TURNS = {
    "tiny_llava": "</s>USER: {} ASSISTANT:",
    "tiny_qwen": "<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n",
}


def in_one_go(loaded, shown, questions):
    """Answers to questions, each time with all that was said before as one new prompt."""
    inputs = loaded.encode([nuwa.Sample.ask(questions[0], *shown.images)])
    answers, said, end = [], [], loaded.tokenizer.eos_token_id
    for number, question in enumerate(questions):
        ids = inputs["input_ids"]
        if number:
            asked = loaded.tokenizer(TURNS[loaded.name].format(question), add_special_tokens=False)["input_ids"]
            ids = torch.tensor([said + asked])
            inputs |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            if "mm_token_type_ids" in inputs:
                inputs["mm_token_type_ids"] = (ids == loaded.model.config.image_token_id).long()
        out = loaded.model.generate(**inputs, max_new_tokens=12, do_sample=False)
        answers.append(loaded.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip())
        said = [*out[0, :-1].tolist()] if out[0, -1] == end else out[0].tolist()
    return answers


@pytest.fixture(scope="module", params=TURNS)
def loaded(request):
    return nuwa.load_model(request.param, device="cpu")


def test_turns_are_one_conversation(loaded):
    """A chat with and one without pruning take turns on one model, and leave it as it was."""
    shown = SCENES[1]
    expected = in_one_go(loaded, shown, QUESTIONS)
    with nuwa.prune(loaded.model, nuwa.load_pruner("visionzip", nuwa.Budget(ratio=0.25)), "perc"):
        fewer = in_one_go(loaded, shown, QUESTIONS)
    session = nuwa.prune(loaded.model, nuwa.load_pruner("visionzip", nuwa.Budget(ratio=0.25)), "perc")
    chats = Chat(loaded, shown, most_tokens=12), Chat(loaded, shown, session, most_tokens=12)
    answers = [[chat.ask(question) for chat in chats] for question in QUESTIONS]
    assert [whole.text for whole, _ in answers] == expected
    assert [part.text for _, part in answers] == fewer != expected
    assert all(0 < answer.first_seconds <= answer.seconds for pair in answers for answer in pair)
    assert session.report().images_seen == 1


@pytest.mark.parametrize("text", ["<image> ?", "{} ?"])
def test_a_further_question_holds_no_token_of_control(loaded, text):
    chat = Chat(loaded, SCENES[0], most_tokens=1)
    chat.ask(QUESTIONS[0])
    text = text.format(loaded.tokenizer.eos_token)
    with pytest.raises(PromptError, match=text.removesuffix(" ?").replace("|", r"\|")):
        chat.ask(text)


def test_a_model_that_says_nothing_of_turns(loaded):
    chat = Chat(replace(loaded, prompt=replace(loaded.prompt, turn=None)), SCENES[0], most_tokens=1)
    chat.ask(QUESTIONS[0])
    with pytest.raises(PromptError, match="takes one question"):
        chat.ask(QUESTIONS[1])


@pytest.mark.parametrize("name", sorted(path.stem for path in CONF.glob("model/*.yaml")))
def test_every_model_of_conf_has_a_turn_that_ends_like_its_prompt(name):
    model = compose(f"model={name}").model
    turn, prompt = model.turn.partition("{text}"), model.prompt.partition("{text}")
    assert turn[1:] == prompt[1:] and turn[0].startswith("<")  # the token that ends an answer


def test_a_turn_has_a_slot():
    with pytest.raises(PromptError, match=r"model\.turn"):
        PromptFormat("{images}{text}", turn="USER:")
