"""The weights that ship load as stock transformers classes, answer held-out questions and come with card and log."""

import csv

import pytest
from safetensors import safe_open
from transformers import AutoProcessor, LlavaProcessor

from nuwa.tiny.evaluate import evaluate
from nuwa.tiny.recipe import Recipe
from nuwa.tiny.shipped import TINY_MODELS


@pytest.fixture(params=list(TINY_MODELS))
def tiny(request):
    return TINY_MODELS[request.param]


@pytest.mark.parametrize(("task", "floor"), [("vqa", 0.85), ("vg", 0.9)])
@pytest.mark.parametrize("name", ["llava", "qwen"])
def test_accuracy_on_held_out_scenes(name, task, floor):
    right = evaluate(TINY_MODELS[name].folder, name, task, count=20)
    assert sum(right[task]) >= floor * 20, right
    assert sum(len(hits) for hits in right.values()) == 2 * 20


FLOORS = {"direction": 0.85, "order": 0.7, "moment": 0.7, "change": 0.85, "count": 0.7, "presence": 0.85}


@pytest.mark.parametrize(("task", "floor"), FLOORS.items())
def test_accuracy_on_held_out_clips(task, floor):
    right = evaluate(TINY_MODELS["video"].folder, "video", task, count=40)[task]
    assert len(right) == 40 and sum(right) >= floor * 40


@pytest.mark.parametrize(("task", "part"), [("read", "small"), ("read", "medium"), ("read", "large"), ("vqa", "color")])
def test_accuracy_on_numbers_that_training_never_showed(task, part):
    right = evaluate(TINY_MODELS["text"].folder, "text", task, count=120)
    assert len(right[part]) == 40 and sum(right[part]) >= 0.8 * 40 and sum(right[task]) >= 0.85 * 120


@pytest.mark.parametrize("task", ["direction", "change", "moment"])
def test_backwards_clips_are_answered_as_they_are_shown(task):
    """The answers stay those of the clip as drawn, none of which is right backwards; chance is an eighth and more."""
    right = evaluate(TINY_MODELS["video"].folder, "video", task, count=40, frame_order="reversed")[task]
    assert sum(right) <= 2


def test_configuration_is_the_documented_one(tiny):
    config = tiny.architecture.from_pretrained(tiny.folder).config
    depths = (config.text_config.num_hidden_layers, config.vision_config.num_hidden_layers)
    assert depths == ((8, 3) if tiny.name in ("video", "text") else (16, 4))
    placeholder = config.video_token_id if tiny.name == "video" else config.image_token_id
    assert placeholder == tiny.vocabulary.ids[tiny.vocabulary.image]
    assert (tiny.folder / "model.safetensors").stat().st_size < 15e6


def test_llava_processor_loads_and_expands_the_image_token():
    processor = AutoProcessor.from_pretrained(TINY_MODELS["llava"].folder)
    assert isinstance(processor, LlavaProcessor)
    assert (processor.patch_size, processor.num_additional_image_tokens) == (4, 1)


def test_card_and_log_are_complete(tiny):
    card = (tiny.folder / "README.md").read_text()
    assert "Supervision that could favour a method" in card
    assert "$" not in card
    with (tiny.folder / "train_log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[-1]["stage"] == Recipe.load(tiny.recipe).stages[-1].name


@pytest.mark.parametrize(("name", "least"), [("llava", 60), ("text", 45)])
def test_the_tower_of_llava_has_its_published_names(name, least):
    """By which vLLM looks for them: ``vision_tower.vision_model.``, as in llava-hf/llava-1.5-7b-hf."""
    with safe_open(TINY_MODELS[name].folder / "model.safetensors", "pt") as weights:
        names = weights.keys()
    tower = [name for name in names if name.startswith("vision_tower.")]
    assert len(tower) > least and all(name.startswith("vision_tower.vision_model.") for name in tower)
