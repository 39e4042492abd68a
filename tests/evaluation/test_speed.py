"""The speed probe: what it reports that does not depend on a clock, and that it leaves no trace."""

import pytest
import torch

import nuwa
from nuwa.benchmarks.scenes import Scenes
from nuwa.evaluation.speed import probe_speed
from nuwa.pruning.flops import llm_flops
from nuwa.schema import ProbeConfig
from nuwa.tiny.evaluate import load_tiny
from nuwa.tiny.shipped import TINY_MODELS

TWICE = ProbeConfig(batch_sizes=[1, 3], new_tokens=2, warmup=0, repeats=2)
ONCE = ProbeConfig(batch_sizes=[1], new_tokens=1, warmup=0, repeats=1)
PARTS = {"encode_ms", "projector_ms", "prefill_ms", "ttft_ms", "decode_ms_per_token", "samples_per_second", "kv_mb"}


@pytest.fixture(scope="module", params=[name for name in TINY_MODELS if name != "video"])
def loaded(request):
    """Models whose pictures are patches alone, as the counts below take them: no newlines between rows."""
    return load_tiny(TINY_MODELS[request.param].folder, request.param)


@pytest.fixture(scope="module")
def scenes():
    return Scenes(2, ["vqa"])


def test_a_pruned_run_stands_beside_the_unpruned_one(loaded, scenes):
    pruner = nuwa.load_pruner("nuwa", budget=nuwa.pruners.base.Budget(ratio=0.25))
    small, large = probe_speed(loaded, scenes, pruner, "pesp", TWICE)
    assert (small["batch"], large["batch"]) == (1, 3)
    assert set(small["variants"]["vanilla"]) == PARTS
    assert set(small["variants"]["pruned"]) == PARTS | {"llm_selection_ms"}
    sample = scenes[0]
    image_tokens = int((loaded.encode([sample])["input_ids"] == loaded.model.config.image_token_id).sum())
    text = loaded.encode([sample])["input_ids"].shape[1] - image_tokens
    shape = nuwa.prune(loaded.model, pruner).adapter.shape
    kept = pruner.schedule(image_tokens, shape.layers).per_layer(shape.layers)
    whole, short = [image_tokens + text] * shape.layers, [count + text for count in kept]
    assert small["theoretical_prefill_speedup"] == pytest.approx(llm_flops(whole, shape) / llm_flops(short, shape))
    values = 2 * shape.kv_heads * shape.head_dim * 4 / 2**20
    assert small["variants"]["pruned"]["kv_mb"]["median"] == pytest.approx(sum(short) * values)
    assert small["variants"]["vanilla"]["kv_mb"]["median"] == pytest.approx(sum(whole) * values)


def test_an_unpruned_job_measures_the_model_alone(loaded, scenes):
    (entry,) = probe_speed(loaded, scenes, None, "native", ONCE)
    assert list(entry["variants"]) == ["vanilla"]
    assert "speedup" not in entry
    quartiles = entry["variants"]["vanilla"]["prefill_ms"]
    assert quartiles["q1"] == quartiles["median"] == quartiles["q3"] > 0


def test_the_probe_leaves_the_model_as_it_was(loaded, scenes):
    inputs = loaded.encode([scenes[0]])
    with torch.no_grad():
        before = loaded.model(**inputs).logits
        probe_speed(loaded, scenes, nuwa.load_pruner("fastv", budget=40), "native", ONCE)
        assert torch.equal(loaded.model(**inputs).logits, before)
