"""Training: a killed run continues to the weights of an uninterrupted one, and its log and checkpoint are usable."""

import csv
from dataclasses import replace

import pytest
import torch
from PIL import Image
from transformers import LlavaImageProcessorPil

from nuwa.tiny import train as training
from nuwa.tiny import training_log
from nuwa.tiny.export import export_weights
from nuwa.tiny.recipe import Recipe
from nuwa.tiny.shipped import TINY_MODELS
from nuwa.tiny.train import Training, train
from nuwa.tiny.training_log import TrainingLog

LLAVA = TINY_MODELS["llava"]


@pytest.fixture(scope="module")
def short():
    """Two steps on the tower and four with the language model, on the smallest windows."""
    return shorten(LLAVA)


def shorten(tiny):
    recipe = Recipe.load(tiny.recipe)
    tower, joint = recipe.stages[0], next(stage for stage in recipe.stages if stage.questions)
    stages = [replace(tower, steps=2, batch=2), replace(joint, steps=4, batch=2, questions=2)]
    return replace(recipe, stages=stages, warmup=2)


class Killed(Exception):
    pass


def kill_after(step, monkeypatch):
    end = TrainingLog.on_train_batch_end

    def hook(self, trainer, module, *rest):
        end(self, trainer, module, *rest)
        if trainer.global_step == step:
            raise Killed

    monkeypatch.setattr(TrainingLog, "on_train_batch_end", hook)


def test_a_killed_run_resumes_to_the_same_weights(short, tmp_path, monkeypatch):
    whole = train(LLAVA, short, tmp_path / "whole")
    monkeypatch.setattr(training, "SAVE_EVERY", 1)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_after(5, patch)
        train(LLAVA, short, tmp_path / "killed")
    resumed = train(LLAVA, short, tmp_path / "killed", resume=True)
    for name, weight in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], weight, atol=0, rtol=0, msg=name)


@pytest.mark.parametrize("tiny", TINY_MODELS.values(), ids=TINY_MODELS)
def test_the_log_has_rows_and_the_checkpoint_exports(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(training_log, "LOG_EVERY", 2)
    train(tiny, shorten(tiny), tmp_path / "run")
    with (tmp_path / "run" / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["2", "4", "6"]
    assert rows[0]["answer"] == "" and float(rows[2]["answer"]) > 0
    assert export_weights(tiny, tmp_path / "run" / "last.ckpt", tmp_path / "export") == 6
    assert (tmp_path / "export" / "model.safetensors").stat().st_size < 15e6


def test_tower_stages_leave_the_language_model_alone(short, tmp_path):
    only_tower = replace(short, stages=short.stages[:1])
    before = Training(LLAVA, only_tower).model.model.language_model.state_dict()
    after = train(LLAVA, only_tower, tmp_path).model.model.language_model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("tiny", TINY_MODELS.values(), ids=TINY_MODELS)
def test_rates_warm_up_and_fall_in_every_stage(tiny):
    recipe = Recipe.load(tiny.recipe)
    done = 0
    for stage in (stage for stage in recipe.stages if stage.steps):
        assert recipe.rate(done) < recipe.rate(done + recipe.warmup)
        assert recipe.rate(done + stage.steps - 1) == pytest.approx(stage.lr[1], abs=0.01)
        assert recipe.stage_at(done) == (stage, 0)
        done += stage.steps
    assert recipe.steps == done


def test_the_alignment_stage_trains(short, tmp_path):
    align = Recipe.load(LLAVA.recipe).stages[-1]
    assert align.name == "align"
    stages = [replace(align, steps=1, size=48, objects=(2, 4), batch=2, questions=2)]
    train(LLAVA, replace(short, stages=stages), tmp_path)


@pytest.mark.parametrize("tiny", TINY_MODELS.values(), ids=TINY_MODELS)
def test_every_batch_splits_over_two_processes(tiny):
    assert all(stage.batch % 2 == 0 for stage in Recipe.load(tiny.recipe).stages)


def test_processor_pads_to_a_square_with_the_mean_color(tmp_path):
    LLAVA.save_processor(tmp_path)
    processor = LlavaImageProcessorPil.from_pretrained(tmp_path)
    pixels = processor(Image.new("RGB", (96, 48), "white"), return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 96, 96)
    assert pixels[0, :, 0].abs().max() < 0.02  # the mean colour, 127 of 255, is 0 after normalising
    assert (pixels[0, :, 48] > 1.9).all()
