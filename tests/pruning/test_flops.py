"""The paper's FLOPs (`llm_flops`) against operations that torch counts, term by term.

A layer of S tokens, hidden size H, feed-forward size I, heads that are A wide together, keys and values K wide:

| part | counted | the paper's |
|---|---|---|
| q, k, v, o | 2SHA + 4SHK + 2SAH | 8SH^2: A = K = H, keys and values as wide as queries |
| scores and their values | 4S^2 A | 4S^2 H: all pairs, though half are masked |
| gate, up, down | 6SHI | 4SHI: two of the three matrices |

Norms, activations, rotations and the softmax are counted by neither.
"""

from __future__ import annotations

import re
from collections import defaultdict

import pytest
import torch
from helpers.families import FAMILIES
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaModel
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLTextModel

import nuwa
from nuwa.models import adapter_for
from nuwa.pruning.flops import ModelShape, flashvid_flops, llm_flops

PART = re.compile(r"(?!.*vision).*\.layers\.(\d+)\.(?:self_attn|mlp)(?:\.(\w+_proj))?")
BATCHED = torch.ops.aten.bmm
S, H, I, LAYERS = 37, 48, 80, 3  # noqa: E741
ROTARY = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}


def counted(run, layers: int) -> list[dict[str, int]]:
    """For each layer, the operations of its matrices by name, and of the scores as ``scores``."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    out = [defaultdict(int) for _ in range(layers)]
    for name, operations in counter.get_flop_counts().items():
        if found := PART.fullmatch(name):
            number, matrix = found.groups()
            out[int(number)][matrix or "scores"] += sum(n for op, n in operations.items() if matrix or op == BATCHED)
    return out


def decoder(kind, config, heads: int, kv_heads: int):
    """A small random text model, and what its layers count on S tokens."""
    sizes = {"vocab_size": 8, "hidden_size": H, "intermediate_size": I, "num_hidden_layers": LAYERS}
    sizes |= {"bos_token_id": None, "eos_token_id": None}
    config = config(num_attention_heads=heads, num_key_value_heads=kv_heads, rope_parameters=ROTARY, **sizes)
    config._attn_implementation = "eager"  # as matrix products, which are counted
    model = kind(config).eval()
    return counted(lambda: model(inputs_embeds=torch.randn(1, S, H)), LAYERS)


def test_llama_counts_what_the_paper_does_and_the_third_matrix():
    layers = decoder(LlamaModel, LlamaConfig, heads=6, kv_heads=6)
    assert [dict(layer) for layer in layers] == LAYERS * [
        dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj"), 2 * S * H**2)
        | {"scores": 4 * S**2 * H}
        | dict.fromkeys(("gate_proj", "up_proj", "down_proj"), 2 * S * H * I)
    ]
    shape = ModelShape(LAYERS, H, I, kv_heads=6, head_dim=8, vision_hidden=0)
    assert llm_flops([S] * LAYERS, shape) == sum(sum(layer.values()) - layer["up_proj"] for layer in layers)


def test_grouped_queries_save_what_the_paper_does_not_count():
    """Qwen2.5's keys and values are narrower than its queries: 1/7 on the 7B, 1/3 here."""
    layers = decoder(Qwen2_5_VLTextModel, Qwen2_5_VLTextConfig, heads=6, kv_heads=2)
    narrow = {"k_proj", "v_proj"}
    for layer in layers:
        assert {layer[name] for name in narrow} == {2 * S * H * (H // 3)}
        assert {layer[name] for name in ("q_proj", "o_proj")} == {2 * S * H**2}
        assert layer["scores"] == 4 * S**2 * H
    shape = ModelShape(LAYERS, H, I, kv_heads=2, head_dim=8, vision_hidden=0)
    spent = sum(sum(layer.values()) - layer["up_proj"] for layer in layers)
    assert llm_flops([S] * LAYERS, shape) == spent + LAYERS * 2 * (2 * S * H**2 - 2 * S * H * (H // 3))


@pytest.mark.parametrize("name", ["nuwa", "visionzip"])
def test_a_pruned_model_counts_what_its_report_says(name):
    """Text included: the formula over text and visual tokens of each layer, in this model's widths."""
    family = FAMILIES["llava"]
    model, shape = family.model("eager"), adapter_for(family.model("eager")).shape
    text = len(family.ids("middle")) - 64
    with nuwa.prune(model, nuwa.load_pruner(name, budget=20)) as session:
        layers = counted(lambda: model(**family.inputs("middle")), shape.layers)
        (image,) = session.report().images
    assert len(set(image.per_layer)) == (2 if name == "nuwa" else 1)
    wide, narrow = 4 * shape.head_dim, shape.kv_heads * shape.head_dim
    for layer, visual in zip(layers, image.per_layer, strict=True):
        s = text + visual
        assert layer["scores"] == 4 * s**2 * wide
        assert layer["q_proj"] == layer["o_proj"] == 2 * s * shape.hidden * wide
        assert layer["k_proj"] == layer["v_proj"] == 2 * s * shape.hidden * narrow
        assert (
            sum(layer[f"{part}_proj"] for part in ("gate", "up", "down")) == 6 * s * shape.hidden * shape.intermediate
        )


ONEVISION = ModelShape(layers=28, hidden=3584, intermediate=18944, kv_heads=4, head_dim=128, vision_hidden=1152)
FRAMES, CELLS = 32, 196


@pytest.mark.parametrize(
    ("per_layer", "printed"),
    [
        ([FRAMES * CELLS] * 28, 113.4),
        ([FRAMES * 49] * 28, 22.4),
        ([1.25 * 0.1 * FRAMES * CELLS] * 20 + [0.3 * 1.25 * 0.1 * FRAMES * CELLS] * 8, 8.6),
    ],
    ids=["vanilla", "fastvid at 25 %", "flashvid at 10 %"],
)
def test_flashvids_formula_gives_its_printed_tflops(per_layer, printed):
    assert round(flashvid_flops(per_layer, ONEVISION) / 1e12, 1) == printed
