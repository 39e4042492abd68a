"""A folder of coloured shapes: the tiny models are asked in the words that they know, and foreign words are named."""

import json

import pytest
from helpers.jobs import compose
from transformers import PreTrainedTokenizerFast

from nuwa.benchmarks.scenes import Scenes
from nuwa.evaluation.result import read_result
from nuwa.evaluation.run import run_job
from nuwa.models.boxes import BoxOptions
from nuwa.models.loaded import LoadedModel
from nuwa.samples import Sample

SIDE = 96


@pytest.fixture
def shapes(tmp_path):
    """Generated scenes as a folder of a person's own: bare expressions, boxes in pixels."""
    lines = []
    for number, sample in enumerate(Scenes(samples=8)):
        sample.images[0].save(tmp_path / f"{number}.png")
        row = {"image": f"{number}.png", "question": sample.text, "answer": sample.target[0]}
        if sample.task == "vg":
            words = sample.text.removeprefix("where is the ").removesuffix(" ?")
            row = {"image": f"{number}.png", "expression": words, "box": [round(SIDE * side) for side in sample.target]}
        lines.append(json.dumps(row) + "\n")
    (tmp_path / "data.jsonl").write_text("".join(lines), encoding="utf-8")
    return tmp_path


def run(folder, *overrides):
    """The result of a run on a folder."""
    quiet = ("logger=none", "callbacks=none", "trainer=cpu", "pruner=none", f"paths.outputs={folder / 'out'}")
    return read_result(run_job(compose("dataset=local", f"dataset.path={folder}", *quiet, *overrides)))


@pytest.mark.parametrize("model", ["tiny_llava", "tiny_qwen"])
def test_the_tiny_models_answer_coloured_shapes_in_a_folder(model, shapes):
    result = run(shapes, f"model={model}")
    assert (result["n"], result["n_failed"]) == (8, 0) and "warning" not in result
    assert result["metrics"]["vqa/exact_match"] >= 0.75 and result["metrics"]["vg/acc@0.5"] >= 0.75


def test_a_run_says_which_words_the_model_does_not_know(shapes):
    result = run(shapes, "model=tiny_qwen", "limit=3", "dataset.vqa_prompt='{question} Answer briefly .'")
    assert result["warning"] == (
        "2 of 3 prompts hold words that tiny_qwen does not know (Answer, briefly); "
        "ask in its own words (dataset.prompt, or dataset.vqa_prompt and vg_prompt)"
    )


def test_the_words_of_a_data_set_are_the_models():
    long = "{question}\nAnswer the question using a single word or phrase."
    for model in ("tiny_llava", "tiny_llava_unaligned", "tiny_qwen"):
        asked = compose("dataset=local", f"model={model}").dataset
        assert (asked.vqa_prompt, asked.vg_prompt) == ("{question}", "where is the {expression} ?")
    for model in ("tiny_video", "tiny_text"):
        assert compose("dataset=local", f"model={model}").dataset.vqa_prompt == "{question}"
    assert compose("dataset=local", "model=llava_1_5_7b").dataset.vqa_prompt == long
    mine = compose("dataset=local", "model=tiny_llava", "dataset.vqa_prompt='{question} .'").dataset
    assert (mine.vqa_prompt, mine.vg_prompt) == ("{question} .", "where is the {expression} ?")
    assert compose("dataset=scenes", "model=tiny_llava").dataset.vg_prompt == "{question}"


def unknown(text, folder="nuwa/tiny/llava"):
    """The words of a text that the tokenizer of a folder lacks."""
    loaded = object.__new__(LoadedModel)
    vars(loaded).update(tokenizer=PreTrainedTokenizerFast.from_pretrained(folder), boxes=BoxOptions())
    return loaded.unknown_words(Sample("x", "vqa", (), text, ()))


def test_unknown_words_stand_as_in_the_question():
    assert unknown("is there a red circle ?") == []
    assert unknown("Is there a dog, a red dog?") == ["Is", "dog"]
    assert unknown("is there\na cat ?", "nuwa/tiny/qwen") == ["cat"]
