"""A whole job on every family's architecture with random weights: nothing to download, a result, pictures."""

import json

import pytest
from helpers.jobs import compose

from nuwa.evaluation.run import run_job

TOY = (
    "model.layers=4", "model.hidden_size=64", "model.intermediate_size=64", "model.vision_hidden_size=16",
    "model.vision_layers=4", "dataset.samples=2", "generation.max_new_tokens=2", "baseline=skip", "logger=none",
    "trainer=cpu", "callbacks.progress=false", "callbacks.pictures=1", "budget=ratio50")  # fmt: skip


@pytest.mark.parametrize(
    ("family", "choices"),
    [
        ("llava_next", ("model.image_size=56",)),
        ("llava_onevision", ("model.image_size=58",)),
        ("gemma3", ("model.image_size=224",)),
        ("internvl", ("model.image_size=56",)),
        ("smolvlm", ("model.image_size=56",)),
        ("qwen2_5_vl", ("dataset.samples=3",)),
        ("qwen2_vl", ()),
        ("qwen3_vl", ("pruner=visionzip",)),
        ("qwen3_vl_moe", ("pruner=fastv",)),
        ("qwen3_5", ()),
    ],
)
def test_a_job(tmp_path, family, choices):
    cfg = compose(f"model={family}_random", *TOY, *choices, f"paths.outputs={tmp_path}")
    folder = run_job(cfg)
    result = json.loads((folder / "result.json").read_text())
    assert result["status"] == "done", result.get("traceback")
    assert result["tokens_entering"] == pytest.approx(result["tokens_per_image"] / 2, rel=0.2)
    assert len(list((folder / "pictures").iterdir())) == 1
