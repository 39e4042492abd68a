"""The weights that ship load as stock transformers classes, answer held-out questions and come with card and log."""

import csv

import pytest
from transformers import AutoProcessor, LlavaForConditionalGeneration, LlavaProcessor

from nuwa.tiny.evaluate import evaluate
from nuwa.tiny.export import FOLDER
from nuwa.tiny.vocabulary import IMAGE


@pytest.mark.parametrize(("task", "floor"), [("vqa", 0.85), ("vg", 0.9)])
def test_accuracy_on_held_out_scenes(task, floor):
    total, *kinds = evaluate(FOLDER, task, count=60)
    assert total.accuracy >= floor, [(score.kind, score.right, score.asked) for score in kinds]


def test_configuration_is_the_documented_one():
    model = LlavaForConditionalGeneration.from_pretrained(FOLDER)
    config = model.config
    assert (config.text_config.num_hidden_layers, config.vision_config.num_hidden_layers) == (16, 4)
    assert config.image_token_index == IMAGE
    assert (FOLDER / "model.safetensors").stat().st_size < 15e6


def test_processor_loads_and_expands_the_image_token():
    processor = AutoProcessor.from_pretrained(FOLDER)
    assert isinstance(processor, LlavaProcessor)
    assert (processor.patch_size, processor.num_additional_image_tokens) == (4, 1)


def test_card_and_log_are_complete():
    card = (FOLDER / "README.md").read_text()
    assert "Supervision that could favour a method" in card
    assert "$" not in card
    with (FOLDER / "train_log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[-1]["stage"] == "align"
