"""Models that other libraries have wrapped or rewritten: PEFT, accelerate's offloading, int8 linears, DataParallel."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers.families import FAMILIES, fixed_keep, fixed_stage
from helpers.family import PROMPTS, run
from helpers.methods import pruner_for
from helpers.support import Fixed, plain_decode
from peft import LoraConfig, PeftMixedModel, get_peft_model
from torch import nn

import nuwa
from nuwa.engine.guards import SessionError

LORA = {"r": 4, "target_modules": r".*(q_proj|v_proj|attn\.qkv|linear_1)", "init_lora_weights": False}
OPTIONS = {"max_new_tokens": 5, "do_sample": False}
METHODS = ("nuwa", "visionzip", "fastv", "sparsevlm", "dart", "divprune")


@pytest.fixture(params=["llava", "llava_next", "qwen2_5_vl"])
def family(request):
    return FAMILIES[request.param]


def own(family, attention="sdpa"):
    """A copy of a family's model that may be changed."""
    torch.manual_seed(7)
    return copy.deepcopy(family.model(attention))


def answers(model, family, pruner, called=None):
    """Ids and logits of a batch, with a session on ``model`` and through ``called``, what is around it."""
    inputs, called = family.inputs("middle", "two"), model if called is None else called
    with torch.no_grad(), nuwa.prune(model, pruner) as session:
        out = called.generate(**inputs, **OPTIONS, output_logits=True, return_dict_in_generate=True)
    assert session.report().images_seen == 3
    return out.sequences, torch.stack(out.logits)


@pytest.mark.parametrize("name", METHODS)
def test_a_peft_model_is_its_merged_model(family, name):
    """Wrapped, and what is inside it, and with the weights that LoRA adds put into the others."""
    peft, pruner = get_peft_model(own(family), LoraConfig(**LORA)).eval(), pruner_for(name, family)
    ids, logits = answers(peft, family, pruner)
    again, _ = answers(peft.get_base_model(), family, pruner, called=peft)
    assert torch.equal(again, ids)
    merged, expected = answers(peft.merge_and_unload(), family, pruner)
    assert torch.equal(ids, merged)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    _, other = answers(family.model(), family, pruner)
    assert (other - expected).abs().max() > 0.1


def test_an_adapter_that_is_switched_off_changes_nothing(family):
    pruner = pruner_for("nuwa", family)
    peft = get_peft_model(own(family), LoraConfig(**LORA)).eval()
    with peft.disable_adapter():
        ids, logits = answers(peft, family, pruner)
    expected = answers(family.model(), family, pruner)
    assert torch.equal(ids, expected[0])
    torch.testing.assert_close(logits, expected[1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"], indirect=True)
def test_weights_that_come_from_disk_change_nothing(family, name, tmp_path):
    """accelerate's hooks bring the weights of a module when it runs; in between they are on no device.

    LLaVA-NeXT reads its newline outside of any module, and so cannot be offloaded, pruned or not.
    """
    from accelerate import disk_offload

    model, pruner = own(family), pruner_for(name, family)
    expected = answers(model, family, pruner)
    disk_offload(model, tmp_path, execution_device="cpu")
    assert any(parameter.is_meta for parameter in model.parameters())
    ids, logits = answers(model, family, pruner)
    assert torch.equal(ids, expected[0]) and torch.equal(logits, expected[1])


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated")
@pytest.mark.parametrize("family", ["llava", "llava_next"], indirect=True)
@pytest.mark.parametrize("name", PROMPTS)
def test_int8_linears_against_plain_decoding(family, name):
    """torch.ao's dynamic quantisation: weights and, call by call, inputs in int8; attention as it is written out.

    (With sdpa a value may be rounded to the next step: unpruned, it differs from eager by up to 0.026 here.)
    """
    from torch.ao.quantization import quantize_dynamic

    model, pruner, position = own(family, "eager"), Fixed(3, (2, 4)), "pesp"
    model.model = quantize_dynamic(model.model, {nn.Linear})  # plain decoding puts a lone vector into the head
    stages = {layer: fixed_stage(family, name, 3, stage) for layer, stage in ((2, 2), (4, 3))}
    keep, images = fixed_keep(family, name, 3), family.pictures(*PROMPTS[name][1])
    _, expected = plain_decode(model, family.ids(name), images, keep, stages, position, 1)
    found = run(model, family.inputs(name), pruner, position)[:, -1]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    exact = run(family.model(), family.inputs(name), pruner, position)[:, -1]
    assert (exact - expected).abs().max() > 1e-3


def test_data_parallel_is_refused():
    family = FAMILIES["llava"]
    with pytest.raises(ValueError, match=r"DataParallel copies its model .* one process per GPU"):
        nuwa.prune(nn.DataParallel(own(family)), Fixed(3))
    with torch.no_grad(), nuwa.prune(own(family), Fixed(3)) as session:
        replica = session.adapter.multimodal._replicate_for_data_parallel()
        with pytest.raises(SessionError, match=r"DataParallel copies its model .* one process per GPU"):
            replica(**family.inputs("middle"))


def test_other_wrappings_and_parts_are_refused():
    model = own(FAMILIES["llava"])
    mixed = get_peft_model(copy.deepcopy(model), LoraConfig(**LORA), mixed=True)
    assert isinstance(mixed, PeftMixedModel)
    for wrapped, said in (
        (mixed, "PeftMixedModel wraps a model; prune the one inside it"),
        (torch.compile(model, backend="eager"), "OptimizedModule wraps a model; prune the one inside it"),
        (model.model, "LlavaModel has no head; prune the model around it"),
        (nn.Linear(2, 2), r"model family .Linear. is not supported; supported: .*llava"),
    ):
        with pytest.raises(ValueError, match=said):
            nuwa.prune(wrapped, Fixed(3))
