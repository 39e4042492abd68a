"""Every family does what `helpers.conformity` asks, and one that forgets a norm of its attention is found out."""

import dataclasses

import pytest
import torch
from helpers.conformity import CHECKS, every_layer_is_read
from helpers.families_toy import NAMES, toy
from transformers import LlavaConfig, LlavaForConditionalGeneration, Qwen3Config

from nuwa.models import base
from nuwa.pruning.scores import split_heads

pytestmark = pytest.mark.filterwarnings("ignore:llava_onevision interpolates")


@torch.no_grad()
@pytest.mark.parametrize("family", NAMES)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_conformity(check, family):
    check(toy(family))


@torch.no_grad()
def test_a_norm_of_queries_and_keys_is_read_and_missed_where_it_is_forgotten(monkeypatch):
    llava = toy("llava")
    own = llava.model.config
    sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
    text = Qwen3Config(**{name: getattr(own.text_config, name) for name in sizes}, num_hidden_layers=2, head_dim=16)
    config = LlavaConfig(vision_config=own.vision_config, text_config=text, image_token_index=own.image_token_id)
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config).eval()
    for layer in model.model.language_model.layers:
        layer.self_attn.q_norm.weight.uniform_(1, 4)
    loaded = dataclasses.replace(llava, model=model)
    every_layer_is_read(loaded)
    forgotten = lambda attention, name, states: split_heads(getattr(attention, f"{name}_proj")(states), 16)  # noqa: E731
    monkeypatch.setattr(base, "_normed_heads", forgotten)
    with pytest.raises(AssertionError):
        every_layer_is_read(loaded)
