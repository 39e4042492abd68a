"""Bad input is refused before any model loads, in one line that names the config key."""

import json

import pytest
from helpers.jobs import compose, small

from nuwa.evaluation.check import check
from nuwa.evaluation.first import check_outputs
from nuwa.pruning.budget import BudgetError


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("pruner.d_thresh=0", "pruner.d_thresh"),
        ("pruner.d_thresh=abc", "pruner.d_thresh"),
        ("dataset.samples=0", "dataset.samples"),
        ("dataset.tasks=[singing]", "dataset.tasks"),
        ("position.strategy=sideways", "position.strategy"),
        ("budget.average=-1", "budget.average"),
        ("budget.ratio=0.5", "budget.ratio"),
        ("limit=0", "limit"),
        ("+limt=5", "limt: there is no such choice"),
        ("+trainer.size=5", "trainer.size: there is no such choice"),
        ("trainer.batch_size=0", "trainer.batch_size"),
        ("generation.top_p=2", "generation.top_p"),
        ("generation.temperature=0", "generation.temperature"),
        ("callbacks.pictures=-1", "callbacks.pictures"),
    ],
)
def test_impossible_values(tmp_path, override, named):
    with pytest.raises(ValueError, match=named) as caught:
        check(small(tmp_path, override))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["calibration.kind=sizes"], r"calibration\.kind=sizes: expected one of native, none, size, restore"),
        (["coordinates.kind=ivcs"], r"coordinates\.kind=ivcs: expected one of none, ivc, random, grid"),
        (["coordinates=ivc", "coordinates.share=0"], r"coordinates\.share=0\.0: expected a share in \(0, 1\)"),
        (["position=median", "pruner=random"], r"position\.strategy=median is for .* random .* use position=pesp"),
        (["calibration=size", "pruner=random"], r"calibration\.kind=size is for methods that merge .* random does not"),
        (
            ["calibration=size", "model.attention=flash_attention_2"],
            r"calibration\.kind=size needs .* use sdpa or eager",
        ),
    ],
)
def test_what_survivors_cannot_be(tmp_path, overrides, message):
    with pytest.raises(ValueError, match=message):
        check(small(tmp_path, *overrides))


def test_a_good_config_builds_its_parts(tmp_path):
    parts = check(small(tmp_path))
    assert (parts.pruner.name, len(parts.benchmark), parts.model["device"]) == ("nuwa", 6, "cpu")


def test_pruner_none_needs_no_budget(tmp_path):
    assert check(small(tmp_path, "pruner=none", "budget=avg64")).pruner.budget.full


@pytest.fixture
def folder(tmp_path):
    """A LLaVA-1.5 folder that is complete but for its weights' contents."""
    config = {
        "model_type": "llava",
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "text_config": {"model_type": "llama", "num_hidden_layers": 16, "hidden_size": 64, "num_attention_heads": 4},
        "vision_config": {"model_type": "clip_vision_model", "image_size": 336, "patch_size": 14},
    }
    for name, content in (("config", config), ("tokenizer", {}), ("preprocessor_config", {})):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    empty = json.dumps({}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(empty).to_bytes(8, "little") + empty)
    return tmp_path


def test_budgets_are_checked_against_the_folder_of_the_model(folder):
    check(compose(f"model.path={folder}"))
    with pytest.raises(BudgetError, match=r"budget\.average=600"):
        check(compose(f"model.path={folder}", "budget.average=600"))


def test_broken_model_folders(folder, tmp_path):
    with pytest.raises(ValueError, match=r"model\.path=.*absent"):
        check(compose(f"model.path={tmp_path / 'absent'}"))
    (folder / "model.safetensors").write_bytes(b"\xff" * 10)
    with pytest.raises(ValueError, match="truncated"):
        check(compose(f"model.path={folder}"))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        check(compose(f"model.path={folder}"))


def test_outputs_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"paths\.outputs"):
        check_outputs(compose(f"paths.outputs={tmp_path / 'file' / 'below'}"))


def test_a_folder_of_another_family_is_refused_and_dynamic_resolution_takes_any_budget(folder):
    config = {"model_type": "qwen2_5_vl", "text_config": {"num_hidden_layers": 4}, "vision_config": {}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ValueError, match=r"model\.family=llava, but the config\.json of model\.path=.* says qwen2_5_vl"
    ):
        check(compose(f"model.path={folder}"))
    for budget in ("avg192", "ratio50"):
        check(compose("model=tiny_qwen", f"model.path={folder}", f"budget={budget}"))
