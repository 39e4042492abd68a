"""One GPU and several, pretended: tensors that a GPU would refuse to mix are refused here (`helpers.devices`)."""

from __future__ import annotations

import re

import pytest
import torch
from helpers.devices import Pretend, mark, moved, pretend
from helpers.families import FAMILIES
from helpers.methods import CASES, METHODS, pruner_for

import nuwa
from nuwa.engine.feature_cache import FeatureCache

GPU = torch.device("cuda:0")
LAYERS = re.compile(r"(?:language|text)_model\.layers\.(\d+)")
pytestmark = pytest.mark.filterwarnings("ignore:llava_onevision interpolates")


@pytest.fixture
def family(request):
    return FAMILIES[request.param]


def one(name: str) -> str:
    """Everything on one GPU."""
    return "cuda:0"


def in_turn() -> list[tuple[str, str]]:
    """Every method on LLaVA-1.5 and on one family more, a different one each time."""
    cases = [("llava", name) for name in METHODS]
    for turn, name in enumerate(METHODS):
        others = [family for family, method in CASES if method == name and family != "llava"]
        cases += [(others[turn % len(others)], name)] if others else []
    return cases


def several(name: str) -> str:
    """Tower, projector, and the LLM's layers from the second on and its head on GPUs of their own."""
    if "projector" in name or "connector" in name:
        return "cuda:1"
    if "vision_" in name or "visual" in name:
        return "cuda:2"
    layer = LAYERS.search(name)
    late = layer is not None and int(layer[1]) >= 1
    return "cuda:3" if late or name.endswith(("language_model.norm", "text_model.norm", "lm_head")) else "cuda:0"


@pytest.mark.parametrize(("family", "name"), in_turn(), indirect=["family"])
def test_generation_equals_that_on_the_cpu(family, name):
    # a fused kernel chooses its backend by the device, in its own code
    model, pruner = family.model("eager"), pruner_for(name, family)
    inputs, options = family.inputs("middle", "two"), {"max_new_tokens": 2, "do_sample": False}
    with torch.no_grad(), nuwa.prune(model, pruner):
        expected = model.generate(**inputs, **options)
    with torch.no_grad(), pretend(model, several), nuwa.prune(model, pruner):
        found = model.generate(**moved(inputs, GPU), **options)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("place", [one, several])
@pytest.mark.parametrize("name", ["none", "visionzip", "nuwa", "feather"])
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"], indirect=True)
def test_shared_rows_and_kept_features_too(family, name, place, tmp_path):
    model, pruner = family.model("eager"), pruner_for(name, family)
    inputs, options = family.inputs("middle", "middle", "two"), {"max_new_tokens": 2, "do_sample": False}
    with torch.no_grad(), nuwa.prune(model, pruner) as session:
        expected = model.generate(**inputs, **options)
    decisions = len({image.grid for image in session.report().images}) if pruner.prunes_vision else 0
    cache = FeatureCache(tmp_path, "space", 10**8)
    with torch.no_grad(), pretend(model, place), nuwa.prune(model, pruner, share=True, cache=cache):
        found = [model.generate(**moved(inputs, GPU), **options) for _ in range(2)]
    assert all(torch.equal(ids, expected) for ids in found)
    assert cache.hits == cache.misses == 1 + decisions


def test_the_pretence_can_fail():
    with Pretend():
        here, there = torch.arange(3), mark(torch.arange(3), GPU)
        assert there.device == GPU
        assert (there + 1).to("cpu").device == torch.device("cpu")
        assert there[here].device == torch.ones(2, device=there.device).device == GPU  # CUDA takes indices from the CPU
        for mix in (lambda: here + there, lambda: here[there], lambda: torch.cat([here, there])):
            with pytest.raises(RuntimeError, match="tensors on cpu, cuda:0"):
                mix()
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()


def test_image_features_may_be_wrapped_anew_on_their_way():
    """As accelerate does, and transformers where inputs are on another device than the model."""
    family = FAMILIES["llava"]
    model, pruner = family.model(), pruner_for("nuwa")
    inputs, options = family.inputs("two"), {"max_new_tokens": 2, "do_sample": False}

    def rewrap(module, args, kwargs):
        outputs = kwargs.get("mm_encoder_outputs") or {}
        again = {name: type(output)(dict(output.items())) for name, output in outputs.items()}
        return args, kwargs | {"mm_encoder_outputs": again}

    with torch.no_grad(), nuwa.prune(model, pruner):
        expected = model.generate(**inputs, **options)
        handle = model.register_forward_pre_hook(rewrap, with_kwargs=True)
        try:
            assert torch.equal(model.generate(**inputs, **options), expected)
        finally:
            handle.remove()
