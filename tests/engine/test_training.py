"""Training with pruning on: gradients of every method, with gradient checkpointing, and with LoRA."""

from __future__ import annotations

import copy
import math
from contextlib import nullcontext

import pytest
import torch
from helpers.families import FAMILIES
from helpers.methods import CASES, pruner_for
from helpers.support import IMAGE
from peft import LoraConfig, get_peft_model
from torch.nn import functional
from transformers.modeling_layers import GradientCheckpointingLayer

import nuwa
from nuwa.engine.guards import SessionError

IGNORED, STEP = -100, 1e-5


def labels_of(input_ids, attention_mask):
    """As docs/inside_a_session.md says: none on padding and images, nor on the token behind either."""
    unheard = (input_ids == IMAGE) | (attention_mask == 0)
    return input_ids.masked_fill(unheard | unheard.roll(1, 1), IGNORED)


def batch_of(family):
    inputs = family.inputs("middle", "two", numbered=True)
    return inputs | {"labels": labels_of(inputs["input_ids"], inputs["attention_mask"])}


def loss_and_gradients(model, inputs, pruner):
    model.zero_grad()
    with nullcontext() if pruner is None else nuwa.prune(model, pruner):
        loss = model(**inputs).loss
        loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def loss_by_hand(logits, labels):
    """Mean surprise at every label but the first of a row; transformers rounds it to float32."""
    asked = labels[:, 1:] != IGNORED
    return float(functional.cross_entropy(logits[:, :-1][asked], labels[:, 1:][asked]))


def steps(model, inputs, pruner, count=5):
    """Losses of a few steps of Adam on one batch."""
    optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=1e-2)
    losses = []
    for _ in range(count):
        losses.append(float(loss_and_gradients(model, inputs, pruner)[0]))
        optimizer.step()
    return losses


pytestmark = pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated")


@pytest.fixture
def trained(family):
    """A copy of a family's model that may be changed."""
    return copy.deepcopy(FAMILIES[family].model()).train()


def checkpointing_changes_nothing(model, inputs, pruner, loss, gradients):
    """Neither kind, or it is refused: transformers 5.19 runs hooks a second time."""
    for reentrant in (False, True):
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        if "__call__" in vars(GradientCheckpointingLayer) and pruner.prunes_llm:
            with pytest.raises(SessionError, match="gradient checkpointing"):
                loss_and_gradients(model, inputs, pruner)
            continue
        again, replayed = loss_and_gradients(model, inputs, pruner)
        assert torch.equal(again, loss)
        assert replayed.keys() == gradients.keys()
        for key, gradient in gradients.items():
            torch.testing.assert_close(replayed[key], gradient, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("family", "name"), [case for case in CASES if case[0] != "llava_onevision"])
def test_every_method_trains_and_checkpointing_changes_nothing(family, name, trained):
    inputs, pruner = batch_of(FAMILIES[family]), pruner_for(name, FAMILIES[family])
    loss, gradients = loss_and_gradients(trained, inputs, pruner)
    checkpointing_changes_nothing(trained, inputs, pruner, loss, gradients)


@pytest.mark.parametrize(("family", "name"), [case for case in CASES if case[0] in ("llava", "qwen2_5_vl")])
def test_gradients_are_the_slope_of_the_loss(family, name, trained):
    """Along the gradient itself, by two losses a step before and behind; the same tokens stay there."""
    inputs, pruner = batch_of(FAMILIES[family]), pruner_for(name, FAMILIES[family])
    if (family, name) == ("llava", "vlm_pruner"):
        pruner.pivots = 3  # two tokens are within a step of being the fourth
    trained.double()
    inputs["pixel_values"] = inputs["pixel_values"].double()
    _, gradients = loss_and_gradients(trained, inputs, pruner)
    length = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients.values()))
    losses = []
    for step in (-1, 1):
        moved = copy.deepcopy(trained)
        with torch.no_grad(), nuwa.prune(moved, pruner):
            for key, gradient in gradients.items():
                moved.get_parameter(key).add_(gradient, alpha=step * STEP / length)
            losses.append(loss_by_hand(moved(**inputs).logits, inputs["labels"]))
    assert (losses[1] - losses[0]) / (2 * STEP) == pytest.approx(length, rel=1e-3)


def lora(model, *targets):
    """The model with LoRA on linear layers of the LLM, the tower, or both, whose weights do something."""
    torch.manual_seed(5)
    places = {
        "llm": r".*language_model.*(q_proj|v_proj)",
        "tower": r".*(vision_tower|visual).*(q_proj|v_proj|attn\.qkv)",
    }
    target = "|".join(f"({places[name]})" for name in targets)
    config = LoraConfig(r=4, target_modules=target, init_lora_weights=False)
    return get_peft_model(model, config)


@pytest.mark.parametrize("targets", [("llm",), ("tower",), ("llm", "tower")], ids="+".join)
@pytest.mark.parametrize("name", ["nuwa", "sparsevlm"])
@pytest.mark.parametrize("family", ["llava", "llava_next", "qwen2_5_vl"])
def test_lora_trains_and_checkpointing_changes_nothing(family, name, targets, trained):
    inputs, pruner = batch_of(FAMILIES[family]), pruner_for(name, FAMILIES[family])
    peft = lora(trained, *targets)
    _, unpruned = loss_and_gradients(peft, inputs, None)
    loss, gradients = loss_and_gradients(peft, inputs, pruner)
    assert gradients.keys() == unpruned.keys()
    assert all(gradient.abs().max() > 0 for gradient in gradients.values())
    peft.enable_input_require_grads()
    checkpointing_changes_nothing(peft, inputs, pruner, loss, gradients)
    peft.gradient_checkpointing_disable()
    losses = steps(peft, inputs, pruner)
    assert losses[-1] < losses[0] == loss


@pytest.mark.parametrize("family", ["llava"])
def test_layers_that_run_hooks_again_are_refused(family, trained, monkeypatch):
    """As those of transformers 5.19 do, where what comes back from the recomputation is the unpruned sequence."""
    call = torch.nn.Module.__call__
    monkeypatch.setattr(type(trained.model.language_model.layers[0]), "__call__", lambda *a, **k: call(*a, **k), False)
    inputs = batch_of(FAMILIES[family])
    loss_and_gradients(trained, inputs, pruner_for("nuwa", FAMILIES[family]))
    trained.gradient_checkpointing_enable()
    loss_and_gradients(trained, inputs, pruner_for("visionzip", FAMILIES[family]))
    with pytest.raises(SessionError, match=r"recomputes a layer.* use 5\.23"):
        loss_and_gradients(trained, inputs, pruner_for("nuwa", FAMILIES[family]))
    loss_and_gradients(trained.eval(), inputs, pruner_for("nuwa", FAMILIES[family]))


@torch.no_grad()
@pytest.mark.parametrize("family", ["llava", "llava_next", "qwen2_5_vl"])
def test_labels_behind_dropped_tokens_cost_the_logarithm_of_the_vocabulary(family, trained):
    """Which is why they are masked: no weight changes what dropped tokens say."""
    family = FAMILIES[family]
    inputs = batch_of(family)
    everything = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, IGNORED)
    with nuwa.prune(trained, pruner_for("fastv", family)):
        logits = trained(**inputs).logits[:, :-1]
    silent = logits.abs().amax(-1) == 0
    masked, unmasked = (labels[:, 1:] != IGNORED for labels in (inputs["labels"], everything))
    assert not (silent & masked).any()
    lost = silent & unmasked
    assert lost.sum() > 50
    surprise = functional.cross_entropy(logits[lost], everything[:, 1:][lost], reduction="none")
    torch.testing.assert_close(surprise, torch.full_like(surprise, math.log(logits.shape[-1])))
