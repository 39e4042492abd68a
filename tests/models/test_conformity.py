"""Every family does what `helpers.conformity` asks, and one that forgets a norm of its attention is found out."""

import dataclasses
import re
import shutil
import sys

import pytest
import torch
from helpers import families_toy
from helpers.conformity import CHECKS, conformity, every_layer_is_read
from helpers.families_toy import toy
from helpers.jobs import CONF, ROOT
from transformers import LlavaConfig, LlavaForConditionalGeneration, Qwen3Config

from nuwa import models
from nuwa.models import decoder, family_names
from nuwa.pruning.scores import split_heads

pytestmark = pytest.mark.filterwarnings("ignore:llava_onevision interpolates")


@torch.no_grad()
@pytest.mark.parametrize("family", family_names())
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
    monkeypatch.setattr(decoder, "_normed_heads", forgotten)
    with pytest.raises(AssertionError):
        every_layer_is_read(loaded)


def test_two_files_make_a_family(tmp_path, monkeypatch):
    """Those of CONTRIBUTING, in a temporary folder."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.split("## A new model family")[1].split("\n## ")[0]
    files = dict(re.findall(r"^`([\w/.]+)`:\n```\w+\n(.*?)^```", section, re.MULTILINE | re.DOTALL))
    assert list(files) == ["nuwa/models/vipllava.py", "conf/model/vipllava_random.yaml"]
    shutil.copytree(CONF, tmp_path / "conf")
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    monkeypatch.setattr(models, "__path__", [*models.__path__, str(tmp_path / "nuwa/models")])
    monkeypatch.setattr(families_toy, "CONF", tmp_path / "conf")
    try:
        assert "vipllava" in models.family_names() and models.axes_of("vipllava") == 1
        conformity(toy("vipllava", image_size=56))
    finally:
        sys.modules.pop("nuwa.models.vipllava", None)
        vars(models).pop("vipllava", None)
